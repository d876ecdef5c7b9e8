"""Reasons why a container cannot come to this host, seen at the target. Reading only."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
from pathlib import Path
from typing import Any

from phaul import (
    docker_checks,
    docker_config,
    docker_host_checks,
    docker_image,
    docker_mount_checks,
    docker_network_checks,
    docker_policy,
    docker_rootfs,
    docker_volumes,
    host_facts,
)
from phaul.docker_api import Engine, NoSuch
from phaul.errors import Blocked, Blocker, Finding, PhaulError
from phaul.overview import Answer
from phaul.policy import Policy

Json = dict[str, Any]

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
SPARE_BYTES = 64 << 20


class Check:
    """One look at this host for one wanted container."""

    def __init__(self, wanted: Json, policy: Policy, hostname: str) -> None:
        self.engine = Engine()
        self.refused = refusals(self.engine, wanted, policy, hostname)
        self.policy = policy
        self.wanted = wanted
        self.inspect: Json = wanted["inspect"]
        self.here = hostname
        self.info = self.engine.info()
        self.runc = host_facts.runc_version()
        self.lacks: list[str] = []

    def findings(self) -> list[Finding]:
        """Everything at once; `lacks` is filled as well."""
        found: list[Finding] = [*self.refused, *host_facts.runc_blockers(self.here, self.runc), *self._engine()]
        found += [*self._image(), *self._name()]
        found += docker_network_checks.look(self.engine, self.wanted, self.here).blockers
        found += self._ports()
        if not self.refused:  # who may not have a part of this host is not told what there is
            found += docker_volumes.taken(self.engine, self.wanted, self.here)
            found += docker_mount_checks.binds_here(self.wanted, self.here)
            found += docker_mount_checks.volumes_here(self.wanted, self.here)
        found += [*docker_host_checks.of_engine(self.info, self.inspect, self.wanted["facts"], self.here, self.runc)]
        if not self.policy.privileged:
            found += docker_host_checks.unconfined(self.info, self.inspect, self.wanted["facts"], self.here)
        return [*found, *self._disk(), *self._memory()]

    def _found(self, code: str, reason: str, remedy: str, subject: str = "") -> Blocker:
        return Blocker(code, reason, remedy, subject or self.here)

    def _engine(self) -> list[Blocker]:
        found = docker_checks.engine_blockers(self.info["ServerVersion"], self.here)
        if docker_config.RUNTIME not in self.info["Runtimes"]:
            reason = f"The restore runtime is not set up on {self.here}"
            found.append(self._found("runtime-missing", reason, "run p.haul-service setup there"))
        if self.info["Driver"] not in docker_rootfs.DRIVERS:
            reason = f"The engine of {self.here} uses the storage driver {self.info['Driver']}"
            found.append(self._found("storage-driver", reason, docker_checks.OVERLAY2))
        return found

    def _image(self) -> list[Blocker]:
        image = self.wanted["image"]
        here = ARCHITECTURES.get(self.info["Architecture"], self.info["Architecture"])
        if image["architecture"] != here:
            reason = f"The image is for {image['architecture']}, {self.here} is {here}"
            return [self._found("architecture", reason, "choose another target")]
        by_layers = image["store"] == self.info["Driver"] == docker_rootfs.OVERLAY2
        self.lacks = docker_image.lacks(self.engine, image, by_layers=by_layers)
        if not image["name"]:
            return []
        with contextlib.suppress(NoSuch):
            if self.engine.image(image["name"])["Id"] != docker_image.here(self.engine, image):
                reason = f"On {self.here} {image['name']} is the name of another image"
                return [self._found("image-tag", reason, "rename that one (docker tag)", f"image {image['name']}")]
        return []

    def _name(self) -> list[Blocker]:
        name = self.wanted["name"]
        for container in self.engine.containers():
            if f"/{name}" in container["Names"]:
                remedy = "give another one with --dst-id, or remove it there"
                return [self._found("name-taken", f"The name {name} is taken on {self.here}", remedy)]
        return []

    def _ports(self) -> list[Blocker]:
        """Those that are published, and those that tasks listen on in the host's own network."""
        found = []
        for protocol, address, port in [*docker_config.published(self.inspect), *self.wanted["serving"]]:
            obstacle, subject = _obstacle(protocol, address, port), f"port {port}/{protocol}"
            if obstacle == errno.EADDRNOTAVAIL:
                reason = f"The container listens on {address}, which is no address of {self.here}"
                found.append(self._found("bound-address", reason, "have it listen on all addresses (0.0.0.0, ::)"))
            elif obstacle:
                reason = f"P{subject[1:]} is taken on {self.here}"
                found.append(self._found("port-taken", reason, "free it there, the container listens on it", subject))
        return found

    def _disk(self) -> list[Blocker]:
        root = Path(self.info["DockerRootDir"])
        needed = int(self.wanted["bytes"]) + SPARE_BYTES + (int(self.wanted["image"]["size"]) if self.lacks else 0)
        free = shutil.disk_usage(root).free
        if free >= needed:
            return []
        reason = f"{root} on {self.here} has {free >> 20} MiB free, {needed >> 20} MiB are needed"
        return [self._found("disk-full", reason, "make room there")]

    def _memory(self) -> list[Blocker]:
        needed = int(self.wanted.get("memory", 0))
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        available = _available() or free
        if needed <= available:
            return []
        reason = f"{self.here} has {available >> 20} MiB of memory available, the container holds {needed >> 20} MiB"
        return [self._found("memory", reason, "free some there, or choose another target")]


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def _obstacle(protocol: str, address: str, port: int) -> int:
    """Why the port cannot be had here, as errno; 0: it can. Tried, by binding it for a moment."""
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if protocol == "sctp":
        return 0
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno or errno.EADDRINUSE
    return 0


def of_host(here: str) -> list[Blocker]:
    """Why no container at all could come: programs that are missing or too old on this host."""
    found = host_facts.tool_blockers(host_facts.gather(), here) + host_facts.pycriu_blockers(here)
    found += host_facts.runc_blockers(here, host_facts.runc_version())
    with contextlib.suppress(PhaulError):
        found += docker_checks.engine_blockers(Engine().version()["Version"], here)
    return found


def refusals(engine: Engine, wanted: Json, policy: Policy, here: str) -> list[Blocker]:
    """What the policy of this host speaks against. Raises as docker_policy.refusals does."""
    return _refusals(engine, wanted, docker_policy.body_of(wanted), policy, here)


def must_allow(engine: Engine, wanted: Json, body: Json, policy: Policy, here: str) -> None:
    """For what the engine is told in the end. Raises Blocked (not-allowed)."""
    if found := _refusals(engine, wanted, body, policy, here):
        raise Blocked(tuple(found))


def _refusals(engine: Engine, wanted: Json, body: Json, policy: Policy, here: str) -> list[Blocker]:
    networks = [str(network["Name"]) for network in engine.networks()]
    return docker_policy.refusals(wanted, body, policy, networks=networks, here=here)


def check(wanted: Json, policy: Policy, hostname: str) -> Answer:
    """What this host has against it, and what of the image is lacking."""
    try:
        look = Check(wanted, policy, hostname)
        return Answer(
            tuple(look.findings()), tuple(look.lacks), docker_host_checks.facts(look.engine, look.info, look.runc)
        )
    except PhaulError as error:
        reason = f"On {hostname}: {error.sentence.rstrip('.')}"
        return Answer((Blocker(error.code, reason, "see to it there, and try again", hostname),))
