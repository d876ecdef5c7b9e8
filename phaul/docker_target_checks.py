"""Reasons why a container cannot come to this host, seen at the target. Reading only."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from pathlib import Path
from typing import Any

from phaul import docker_checks, docker_config, docker_image, docker_network_checks, docker_rootfs, host_facts
from phaul.docker_api import Engine, NoSuch
from phaul.errors import Blocker, PhaulError

Json = dict[str, Any]

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
APPARMOR = Path("/sys/kernel/security/apparmor/profiles")
SPARE_BYTES = 64 << 20


class Check:
    """One look at this host for one wanted container."""

    def __init__(self, wanted: Json, hostname: str) -> None:
        self.engine = Engine()
        self.wanted = wanted
        self.inspect: Json = wanted["inspect"]
        self.here = hostname
        self.info = self.engine.info()
        self.lacks: list[str] = []

    def blockers(self) -> list[Blocker]:
        """Every blocker at once; `lacks` is filled as well."""
        found = [*host_facts.runc_blockers(self.here, host_facts.runc_version()), *self._engine(), *self._image()]
        found += [*self._name(), *self._volumes()]
        found += docker_network_checks.look(self.engine, self.wanted, self.here).blockers
        found += [*self._ports(), *self._binds(), *self._profile()]
        return [*found, *self._disk(), *self._memory()]

    def _engine(self) -> list[Blocker]:
        found = docker_checks.engine_blockers(self.info["ServerVersion"], self.here)
        if docker_config.RUNTIME not in self.info["Runtimes"]:
            sentence = f"The restore runtime is not set up on {self.here}: run p.haul-service setup there."
            found.append(Blocker("runtime-missing", sentence))
        if self.info["Driver"] not in docker_rootfs.DRIVERS:
            sentence = f"The engine of {self.here} uses the storage driver {self.info['Driver']}: overlay2 is needed."
            found.append(Blocker("storage-driver", sentence))
        return found

    def _image(self) -> list[Blocker]:
        image = self.wanted["image"]
        here = ARCHITECTURES.get(self.info["Architecture"], self.info["Architecture"])
        if image["architecture"] != here:
            sentence = f"The image is for {image['architecture']}, {self.here} is {here}."
            return [Blocker("architecture", sentence)]
        by_layers = image["store"] == self.info["Driver"] == docker_rootfs.OVERLAY2
        self.lacks = docker_image.lacks(self.engine, image, by_layers=by_layers)
        if not image["name"]:
            return []
        with contextlib.suppress(NoSuch):
            if self.engine.image(image["name"])["Id"] != docker_image.here(self.engine, image):
                sentence = f"On {self.here} {image['name']} is the name of another image: rename that one (docker tag)."
                return [Blocker("image-tag", sentence)]
        return []

    def _name(self) -> list[Blocker]:
        name = self.wanted["name"]
        for container in self.engine.containers():
            if f"/{name}" in container["Names"]:
                sentence = (
                    f"The name {name} is taken on {self.here}: give another one with --dst-id, or remove it there."
                )
                return [Blocker("name-taken", sentence)]
        return []

    def _volumes(self) -> list[Blocker]:
        """A volume of that name is welcome when it is empty; what is in it is never overwritten."""
        found = []
        for volume in docker_config.volumes(self.inspect):
            if docker_config.is_anonymous(self.inspect, volume):
                continue
            with contextlib.suppress(NoSuch):
                path = Path(self.engine.volume(volume["Name"])["Mountpoint"])
                if path.is_dir() and any(path.iterdir()):
                    sentence = f"Volume {volume['Name']} exists on {self.here} with other content: remove it there."
                    found.append(Blocker("volume-exists", sentence))
        return found

    def _ports(self) -> list[Blocker]:
        found = []
        for protocol, address, port in docker_config.published(self.inspect):
            if not _free(protocol, address, port):
                sentence = f"Port {port}/{protocol} is taken on {self.here}: free it there, the container publishes it."
                found.append(Blocker("port-taken", sentence))
        return found

    def _binds(self) -> list[Blocker]:
        found = []
        for source, kind in self.wanted["binds"].items():
            path = Path(source)
            if self.wanted["copy_binds"]:
                if path.exists() and (not path.is_dir() or any(path.iterdir())):
                    sentence = (
                        f"{source} on {self.here} is not empty: move it away, or leave out --copy-binds to use it."
                    )
                    found.append(Blocker("bind-exists", sentence))
            elif not path.exists():
                sentence = f"The bind-mounted {kind} {source} is not on {self.here}: put it there or use --copy-binds."
                found.append(Blocker("bind-missing", sentence))
        return found

    def _profile(self) -> list[Blocker]:
        profile = self.inspect.get("AppArmorProfile") or ""
        if profile in ("", "unconfined", "docker-default") or not APPARMOR.exists():
            return []
        if any(line.startswith(f"{profile} (") for line in APPARMOR.read_text().splitlines()):
            return []
        return [Blocker("apparmor", f"The AppArmor profile {profile} is not loaded on {self.here}: load it there.")]

    def _disk(self) -> list[Blocker]:
        root = Path(self.info["DockerRootDir"])
        needed = int(self.wanted["bytes"]) + SPARE_BYTES + (int(self.wanted["image"]["size"]) if self.lacks else 0)
        free = shutil.disk_usage(root).free
        if free >= needed:
            return []
        sentence = f"{root} on {self.here} has {free >> 20} MiB free, {needed >> 20} MiB are needed: make room there."
        return [Blocker("disk-full", sentence)]

    def _memory(self) -> list[Blocker]:
        needed = int(self.wanted.get("memory", 0))
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        available = _available() or free
        if needed <= available:
            return []
        sentence = f"{self.here} has {available >> 20} MiB of memory available, the container holds {needed >> 20} MiB."
        return [Blocker("memory", sentence)]


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def _free(protocol: str, address: str, port: int) -> bool:
    """Whether nothing on this host has the port: tried, by binding it for a moment."""
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if protocol == "sctp":
        return True
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def of_host(here: str) -> list[Blocker]:
    """Why no container at all could come: programs that are missing or too old on this host."""
    found = host_facts.tool_blockers(host_facts.gather(), here) + host_facts.pycriu_blockers(here)
    found += host_facts.runc_blockers(here, host_facts.runc_version())
    with contextlib.suppress(PhaulError):
        found += docker_checks.engine_blockers(Engine().version()["Version"], here)
    return found


def check(wanted: Json, hostname: str) -> tuple[list[Blocker], list[str]]:
    """Blockers, and what of the image is lacking."""
    try:
        look = Check(wanted, hostname)
        return look.blockers(), look.lacks
    except PhaulError as error:
        return [Blocker(error.code, f"On {hostname}: {error.sentence}")], []
