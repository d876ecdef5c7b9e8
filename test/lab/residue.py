"""What a host holds, as a value to compare: a haul that failed must leave both hosts as they were."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields

from .host import Host

PLACES = ("/run/phaul", "/var/lib/phaul")
RUNTIME_STATE = ("run/docker/runtime-*/moby/*", "run/containerd/io.containerd.runtime.v2.task/moby/*")
DOCKERS_OWN_NETWORKS = {"bridge", "host", "none"}
# Docker gives these a new random name each time: what counts is how many there are.
RANDOM_NAMES = (
    (re.compile(r"^veth[0-9a-f]{7}"), "veth*"),
    (re.compile(r"/run/docker/netns/[0-9a-f]{12}$"), "/run/docker/netns/*"),
    (re.compile(r'"veth[0-9a-f]{7}"'), '"veth*"'),
)
KERNEL_THREAD = 0x00200000  # PF_KTHREAD, in the flags of /proc/PID/stat
# Seen now and then on a host where nothing happens.
PASSING = {"enter", "lab-agent", "docker", "runc", "exe", "iptables", "ip6tables", "nft", "docker-init"}
PASSING |= {"(udev-worker)", "systemd-userwor", "systemd-executo", "(sd-pam)", "(sd-executor)"}


@dataclass(frozen=True)
class Residue:
    """One look at a host. Every field is a sorted tuple of lines."""

    containers: tuple[str, ...]
    volumes: tuple[str, ...]
    networks: tuple[str, ...]
    images: tuple[str, ...]
    mounts: tuple[str, ...]
    cgroups: tuple[str, ...]
    interfaces: tuple[str, ...]
    firewall: tuple[str, ...]
    files: tuple[str, ...]
    runtimes: tuple[str, ...]
    processes: tuple[str, ...]


def residue(host: Host) -> Residue:
    """What the host holds now."""
    if host.far:
        return Residue(**{name: tuple(found) for name, found in host.ask("residue").items()})
    engine = host.engine
    containers = engine.get("/containers/json?all=true")
    return Residue(
        containers=lines(f"{found['Id']} {' '.join(found['Names'])} {found['State']}" for found in containers),
        volumes=lines(volume["Name"] for volume in engine.get("/volumes")["Volumes"] or ()),
        networks=lines(networks(host)),
        images=lines(image["Id"] for image in engine.get("/images/json")),
        mounts=lines(mounts(host)),
        cgroups=lines(cgroups(host)),
        interfaces=lines(interfaces(host)),
        firewall=lines(firewall(host)),
        files=lines(files(host)),
        runtimes=lines(runtimes(host)),
        processes=lines(processes(host)),
    )


def diff(before: Residue, after: Residue) -> list[str]:
    """One line for each thing that has come (+) or gone (-); empty where nothing has."""
    changes = []
    for entry in fields(Residue):
        old, new = Counter(getattr(before, entry.name)), Counter(getattr(after, entry.name))
        changes += [f"- {entry.name}: {line}" for line in sorted((old - new).elements())]
        changes += [f"+ {entry.name}: {line}" for line in sorted((new - old).elements())]
    return changes


def settled_diff(host: Host, before: Residue, *, timeout: float = 15) -> list[str]:
    """The differences that are left after the host had time to finish what it is at."""
    deadline = time.monotonic() + timeout
    while (changes := diff(before, residue(host))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return changes


def lines(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(map(anonymous, found)))


def anonymous(line: str) -> str:
    for pattern, name in RANDOM_NAMES:
        line = pattern.sub(name, line)
    return line


def networks(host: Host) -> Iterable[str]:
    for network in host.engine.get("/networks"):
        # dockerd makes its own anew at each start
        yield network["Name"] if network["Name"] in DOCKERS_OWN_NETWORKS else f"{network['Id']} {network['Name']}"


def mounts(host: Host) -> Iterable[str]:
    for line in host.proc("mounts").splitlines():
        _, where, kind, *_ = line.split()
        yield f"{kind} {where}"


def cgroups(host: Host) -> Iterable[str]:
    for group in host.cgroups:
        for path in group.rglob(host.cgroup_pattern):
            # dockerd makes the parent of all containers with the first one, and keeps it
            if path.is_dir() and path != group / "docker":
                yield f"{group.parent.name}: {path.relative_to(group)}"


def interfaces(host: Host) -> Iterable[str]:
    for line in host.proc("net/dev").splitlines()[2:]:
        yield line.partition(":")[0].strip()


def firewall(host: Host) -> Iterable[str]:
    """The rules, each with the chain it is in, less counters and handles."""
    chain = ""
    for line in host.run("nft", "-s", "list", "ruleset").out.splitlines():
        words = line.strip()
        if words.endswith("{"):
            chain = words.removesuffix("{").strip()
        elif words not in {"", "}"} and not words.startswith("type "):  # dockerd makes a chain when first needed
            yield f"{chain}: {re.sub(r'counter packets [0-9]+ bytes [0-9]+', 'counter', words)}"


def files(host: Host) -> Iterable[str]:
    for place in PLACES:
        top = host.path(place)
        if top.exists():
            yield place
            yield from (f"{place}/{path.relative_to(top)}" for path in top.rglob("*"))


def runtimes(host: Host) -> Iterable[str]:
    """The containers that runc and containerd keep a state of."""
    top = host.path("/")
    for pattern in RUNTIME_STATE:
        yield from (str(path.relative_to(top)) for path in top.glob(pattern))


def processes(host: Host) -> Iterable[str]:
    for comm in host.path("/proc").glob("[0-9]*/comm"):
        try:
            name = comm.read_text().strip()
            flags = int(comm.with_name("stat").read_text().rpartition(")")[2].split()[6])
        except OSError:
            continue
        if name not in PASSING and not flags & KERNEL_THREAD:
            yield name
