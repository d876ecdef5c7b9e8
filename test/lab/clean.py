"""Putting a host back to how it was before a test, whatever the test left behind."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from . import cgroups
from .errors import LabError
from .host import Host
from .waiting import until

WIPED = ("/run/phaul", "/var/lib/phaul")
RESTORED = ("/etc/phaul", "/etc/docker")
# What a haul consists of, as command lines; a container's own processes are ended by docker.
OURS = (b"p.haul", b"phaul", b"criu", b"rsync")
REMOVE_TIMEOUT_S = 60

T = TypeVar("T")
Saved = dict[str, tuple[int, bytes]]


@dataclass(frozen=True)
class Baseline:
    """What a host holds that may stay."""

    host: Host
    containers: frozenset[str]
    volumes: frozenset[str]
    networks: frozenset[str]
    images: frozenset[str]
    files: frozenset[Path]
    processes: frozenset[tuple[str, int]]
    settings: Saved


@dataclass(frozen=True)
class FarBaseline:
    """The same of a host that must look at itself; `file` is where it has written it down, once for all tests."""

    host: Host
    file: str


def baselines(*hosts: Host) -> list[Baseline | FarBaseline]:
    """Take note of what the hosts hold now."""
    return at_once(baseline, hosts, far=any(host.far for host in hosts))


def restore_all(before: list[Baseline | FarBaseline]) -> None:
    """Remove all that has come since. Raises LabError if something cannot be removed."""
    at_once(restore, before, far=any(one.host.far for one in before))


def at_once(function: Callable[[Any], T], things: Sequence[Any], *, far: bool) -> list[T]:
    """The function's results; for far hosts, which take their time, it is called for all at the same time."""
    with ThreadPoolExecutor(len(things) if far else 1) as pool:
        return list(pool.map(function, things)) if far else list(map(function, things))


def baseline(host: Host) -> Baseline | FarBaseline:
    """Take note of what the host holds now."""
    if host.far:
        return FarBaseline(host, host.kept_baseline)
    return Baseline(
        host=host,
        containers=frozenset(containers(host)),
        volumes=frozenset(volumes(host)),
        networks=frozenset(networks(host)),
        images=frozenset(image_ids(host)),
        files=frozenset(path for place in WIPED for path in tree(host, place)),
        processes=frozenset(our_processes(host)),
        settings=settings(host),
    )


def restore(before: Baseline | FarBaseline) -> None:
    """Remove all that has come since. Raises LabError if something cannot be removed."""
    host = before.host
    if isinstance(before, FarBaseline):
        host.ask("restore", file=before.file, kept=sorted(host.kept_images))
        return
    kill_processes(host, set(our_processes(host)) - before.processes)
    for group in host.cgroups:
        cgroups.thaw(group)
    wake_dockerd(host)
    host.start_dockerd()
    restore_settings(before)
    until(
        lambda: not remaining_containers(before), f"removal of the containers of {host.name}", timeout=REMOVE_TIMEOUT_S
    )
    for network in set(networks(host)) - before.networks:
        host.engine.delete(f"/networks/{network}")
    for volume in set(volumes(host)) - before.volumes:
        host.engine.delete(f"/volumes/{volume}?force=true")
    for image in set(image_ids(host)) - before.images - kept_image_ids(host):
        host.engine.delete(f"/images/{image}?force=true")
    wipe(before)


def remaining_containers(before: Baseline) -> set[str]:
    """Remove the containers that are not in the baseline; those that are still there."""
    host = before.host
    for container in set(containers(host)) - before.containers:
        with contextlib.suppress(LabError):  # one that is being removed already is a conflict
            host.engine.delete(f"/containers/{container}?force=true&v=true")
    return set(containers(host)) - before.containers


def containers(host: Host) -> Iterable[str]:
    return (found["Id"] for found in host.engine.get("/containers/json?all=true"))


def volumes(host: Host) -> Iterable[str]:
    return (volume["Name"] for volume in host.engine.get("/volumes")["Volumes"] or ())


def networks(host: Host) -> Iterable[str]:
    return (found["Id"] for found in host.engine.get("/networks") if found["Name"] not in {"bridge", "host", "none"})


def image_ids(host: Host) -> Iterable[str]:
    return (image["Id"] for image in host.engine.get("/images/json"))


def kept_image_ids(host: Host) -> set[str]:
    """The images that images.load() put there: to load them again for each test would be slow."""
    return {
        image["Id"]
        for image in host.engine.get("/images/json")
        if host.kept_images.intersection(image["RepoTags"] or ())
    }


def our_processes(host: Host) -> Iterable[tuple[str, int]]:
    """The pid inside and the start time of each process that may belong to a haul."""
    for directory in host.path("/proc").glob("[1-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if any(word in (directory / "cmdline").read_bytes() for word in OURS):
                yield directory.name, int((directory / "stat").read_text().rpartition(")")[2].split()[19])


def kill_processes(host: Host, processes: set[tuple[str, int]]) -> None:
    pids = [pid for pid, _ in processes]
    if pids:
        host.run("kill", "-9", *pids, check=False)
        until(
            lambda: not processes & set(our_processes(host)),
            f"the end of what a test started on {host.name}",
            timeout=REMOVE_TIMEOUT_S,
        )


def wake_dockerd(host: Host) -> None:
    """End a stop that a test has put dockerd in."""
    host.dockerd.signal("CONT")


def tree(host: Host, place: str) -> Iterable[Path]:
    return host.path(place).rglob("*")


def settings(host: Host) -> Saved:
    """Mode and content of every file that configures docker or P.Haul."""
    files = [path for place in RESTORED for path in tree(host, place) if path.is_file()]
    return {str(path): (path.stat().st_mode & 0o7777, path.read_bytes()) for path in files}


def restore_settings(before: Baseline) -> None:
    now = settings(before.host)
    for name in now.keys() - before.settings.keys():
        Path(name).unlink(missing_ok=True)
    for name, (mode, content) in before.settings.items():
        if now.get(name) != (mode, content):
            Path(name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            Path(name).write_bytes(content)
            Path(name).chmod(mode)
    if now != before.settings:
        before.host.dockerd.signal("HUP")


def wipe(before: Baseline) -> None:
    """Remove what has come to P.Haul's own directories, unmounting what is mounted there."""
    host = before.host
    for place in WIPED:
        mounted = [line.split()[1] for line in host.proc("mounts").splitlines()]
        for where in sorted((point for point in mounted if point.startswith(f"{place}/")), reverse=True):
            host.run("umount", "-l", where, check=False)
        for path in sorted(set(tree(host, place)) - before.files):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
