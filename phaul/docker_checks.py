"""Reasons why a running container cannot be moved, seen at the source. Reading only."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phaul import docker_config, docker_mount_checks, docker_rootfs, freezer, task_checks
from phaul.errors import Blocker, PhaulError
from phaul.fs_haul_subtree import everything_in
from phaul.host_facts import dotted, version_of

Json = dict[str, Any]

MIN_ENGINE = (26, 1)  # the oldest that hauls were tried with
RUNTIMES = (None, "", "runc", "io.containerd.runc.v2", docker_config.RUNTIME)
ALONE = "run it with one of its own"
OVERLAY2 = "have the engine use overlay2 (storage-driver in daemon.json)"

NOT_RUNNING = {
    "Paused": ("paused", "is paused", "unpause it first (docker unpause {name})"),
    "Restarting": ("restarting", "is restarting", "wait until it runs"),
    "Dead": ("dead", "is dead", "only a running container can be moved; remove it (docker rm -f {name})"),
}


def state_blockers(inspect: Json, name: str) -> list[Blocker]:
    """Whether it runs at all."""
    state = inspect["State"]
    for field, (code, words, remedy) in NOT_RUNNING.items():
        if state.get(field):
            return [_of(name, code, words, remedy.format(name=name))]
    if not state.get("Running"):
        remedy = f"only a running container can be moved; start it (docker start {name})"
        return [_of(name, "not-running", f"is not running ({state['Status']})", remedy)]
    return []


def _of(name: str, code: str, words: str, remedy: str) -> Blocker:
    return Blocker(code, f"Container {name} {words}", remedy, f"container {name}")


def config_blockers(inspect: Json, name: str) -> list[Blocker]:
    """What its configuration rules out."""
    host, config, driver = inspect["HostConfig"], inspect["Config"], docker_rootfs.driver(inspect)
    runtime = host.get("Runtime")
    tests = (
        (config["Tty"], "tty", "has a terminal (-t) that the engine holds and CRIU cannot move", "run it without -t"),
        (host.get("DeviceRequests"), "gpu", "uses a GPU, whose state stays in it", "stop it and start it there"),
        (host.get("Devices"), "devices", "has devices of this host, whose state stays here", "run it without --device"),
        (host["Privileged"], "privileged", "is privileged, with every device of this host", "run it unprivileged"),
        (host.get("VolumesFrom"), "volumes-from", "uses --volumes-from", "name the volumes themselves instead"),
        (host.get("Links"), "links", "uses --link", "put both into a network of their own instead"),
        (_is_of_swarm(config), "swarm", "belongs to a swarm service", "move it by the swarm's own tools"),
        (_joins(host.get("NetworkMode")), "network-container", "shares a container's network", ALONE),
        (_joins(host.get("IpcMode")), "ipc-container", "shares a container's IPC", ALONE),
        (host.get("IpcMode") == "host", "ipc-host", "shares this host's IPC (--ipc host)", ALONE),
        (host.get("PidMode"), "pid-mode", "shares a pid namespace (--pid)", "run it without --pid"),
        (driver not in docker_rootfs.DRIVERS, "storage-driver", f"is kept by {driver}", OVERLAY2),
        (runtime not in RUNTIMES, "runtime", f"is run by {runtime}", "run it by runc (--runtime)"),
    )  # fmt: skip
    found = [_of(name, code, words, remedy) for hit, code, words, remedy in tests if hit]
    return found + _mount_blockers(inspect, name)


def _is_of_swarm(config: Json) -> bool:
    return "com.docker.swarm.service.id" in (config.get("Labels") or {})


def _joins(mode: str | None) -> bool:
    return (mode or "").startswith("container:")


def _mount_blockers(inspect: Json, name: str) -> list[Blocker]:
    found = []
    for mount in inspect["Mounts"]:
        if mount["Destination"].endswith("docker.sock") or Path(mount.get("Source", "")).name == "docker.sock":
            words = f"has the engine's socket mounted ({mount['Destination']}) and governs this host"
            found.append(_of(name, "docker-socket", words, "run it without, or start it anew there"))
        if mount["Type"] == "volume" and mount["Driver"] != "local":
            reason = f"Volume {mount['Name']} of {name} is of the driver {mount['Driver']}"
            remedy = "only local volumes can be moved; copy it into one"
            found.append(Blocker("volume-driver", reason, remedy, f"volume {mount['Name']}"))
        if mount["Type"] not in ("volume", "bind", "tmpfs"):
            words = f"has a mount of type {mount['Type']} at {mount['Destination']}"
            found.append(_of(name, "mount-type", words, "run it without: it cannot be moved"))
    return found


def task_blockers(inspect: Json, name: str) -> list[Blocker]:
    """What its tasks do just now that CRIU cannot dump here."""
    try:
        pids = freezer.of(inspect["State"]["Pid"]).pids()
    except PhaulError as error:
        return [_of(name, error.code, f"cannot be looked at ({error.sentence.rstrip('.')})", "see docker logs")]
    found = task_checks.of_tasks(pids, f"container {name}") + docker_mount_checks.made_inside(pids, inspect, name)
    return found


def all_blockers(inspect: Json, name: str) -> list[Blocker]:
    """Everything at once, so that an administrator mends everything at once."""
    stopped = state_blockers(inspect, name)
    if stopped:
        return stopped
    found = config_blockers(inspect, name)
    modes = {"pid-mode"} & {blocker.code for blocker in found}
    return found if modes else found + task_blockers(inspect, name)


def engine_blockers(seen: str, where: str) -> list[Blocker]:
    """Whether an engine of that version is too old."""
    if version_of(seen) >= MIN_ENGINE:
        return []
    remedy = f"{dotted(MIN_ENGINE)} or newer is needed; upgrade it"
    return [Blocker("engine-too-old", f"Docker {seen} on {where} is too old", remedy, where)]


def shares_host_network(inspect: Json) -> bool:
    return bool(inspect["HostConfig"]["NetworkMode"] == "host")


def size_of(tree: Path) -> int:
    """Bytes that the files of a tree take on disk; each hard-linked file once. Little is remembered of many files."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for info in _all_in(tree):
        if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
            if (info.st_dev, info.st_ino) in seen:
                continue
            seen.add((info.st_dev, info.st_ino))
        total += info.st_blocks * 512
    return total


def _all_in(tree: Path) -> Iterator[os.stat_result]:
    """The tree itself and everything in it; what vanishes meanwhile is left out."""
    with contextlib.suppress(FileNotFoundError):
        yield tree.lstat()
    for _, entry in everything_in(tree):
        with contextlib.suppress(FileNotFoundError):
            yield entry.stat(follow_symlinks=False)
