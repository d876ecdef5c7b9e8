"""What breaks: each fault is made while the haul stands still, and is over when p.haul has ended.

The hosts share the kernel's clock with the machine, and a time namespace has none of its own for the time of day
(time_namespaces(7)). So where a clock jumps, it is the program that halts in this phase which reads another time
from then on: p.haul or the service, and nothing else on that host.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from faults import CLEAN_S, journals, kill_inner, little_room
from hauling import wait_for
from lab import Host
from lab.cgroups import V2_LEAF

if TYPE_CHECKING:
    from .trial import Trial

DAY = 86400
BLINK_S = 1
WORK = "/var/lib/phaul/work"
# More than a restore takes, less than the workload has in memory.
LITTLE_MEMORY = 12 << 20
# Who loses the link for good finds out soon, does not ask for long, and gives up soon what is held.
HASTY_SOURCE = ("set=phaul.link:DEAD_AFTER_MS=2000", "set=phaul.resolve:PATIENCE_SECONDS=0.5")
HASTY_TARGET = ("set=phaul.link:DEAD_AFTER_MS=2000", "set=phaul.service:GRACE_SECONDS=2")
DECIDED = ("running", "done", "undone", "lost")

Made = Callable[["Trial"], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """`made` is its making; the block in it is the rest of the haul, and its end undoes the fault.

    `act` is what at_point.py does instead of halting, where that is all. `source` and `target` are more words for it.
    """

    name: str
    words: str
    made: Made
    act: str = ""
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()


@contextlib.contextmanager
def nothing(trial: Trial) -> Iterator[None]:
    yield


@contextlib.contextmanager
def p_haul_killed(trial: Trial) -> Iterator[None]:
    kill_inner(trial.hauling)
    yield


@contextlib.contextmanager
def service_killed(trial: Trial) -> Iterator[None]:
    """Another one is started at once, as systemd does."""
    os.kill(trial.service.pid, signal.SIGKILL)
    trial.service.process.wait(CLEAN_S)
    trial.serve()
    yield


def engine_killed(name: str) -> Made:
    @contextlib.contextmanager
    def made(trial: Trial) -> Iterator[None]:
        host = trial.lab.host(name)
        host.kill_dockerd()
        try:
            yield
        finally:
            host.start_dockerd()

    return made


@contextlib.contextmanager
def criu_killed(trial: Trial) -> Iterator[None]:
    """The first of its processes, as the kernel does for want of memory."""
    host = trial.host_of(trial.cell.phase.criu)
    host.run("sh", "-c", "kill -KILL $(pidof criu | tr ' ' '\n' | sort -n | head -n 1)")
    yield


@contextlib.contextmanager
def link_blinks(trial: Trial) -> Iterator[None]:
    """Too short for anybody to take the other host for dead."""
    trial.lab.cut("b")
    try:
        trial.go()
        with contextlib.suppress(subprocess.TimeoutExpired):
            trial.hauling.wait(BLINK_S)
    finally:
        trial.lab.join("b")
    yield


@contextlib.contextmanager
def link_cut(trial: Trial) -> Iterator[None]:
    """Until each side has come to its own conclusion."""
    trial.lab.cut("b")
    try:
        yield
        wait_for(lambda: set(journals(trial.b).values()) <= set(DECIDED), "the target's own conclusion", CLEAN_S)
    finally:
        trial.lab.join("b")


def disk_full(place: str) -> Made:
    return lambda trial: little_room(trial.b, 0, place)


@contextlib.contextmanager
def memory_limited(trial: Trial) -> Iterator[None]:
    """All of the engine's containers together: as by a limit that the administrator gave their slice."""
    limit = limit_of_containers(trial.b)
    before = limit.read_text()
    limit.write_text(str(LITTLE_MEMORY))
    try:
        yield
    finally:
        limit.write_text("-1" if before.strip().isdecimal() else before)


def limit_of_containers(host: Host) -> Path:
    """The file of the memory limit of the cgroup that the engine has all containers' in."""
    for group in host.cgroups:
        top, name = (group.parent, "memory.max") if group.name == V2_LEAF else (group, "memory.limit_in_bytes")
        if (top / name).exists():
            (top / "docker").mkdir(exist_ok=True)
            return top / "docker" / name
    raise AssertionError("this machine has no memory cgroups")


FAULTS = (
    Fault("p.haul killed", "SIGKILL for p.haul", p_haul_killed),
    Fault("service killed", "SIGKILL for p.haul-service, which is started again at once", service_killed),
    Fault(
        "source engine killed",
        "SIGKILL for dockerd there, which is started again when p.haul has ended",
        engine_killed("a"),
    ),
    Fault("target engine killed", "the same at the target", engine_killed("b")),
    Fault("CRIU killed", "SIGKILL for the first process of the CRIU that dumps, or restores", criu_killed),
    Fault("link blinks", f"the link is cut for {BLINK_S} s", link_blinks),
    Fault("link cut", "until both hosts have come to a conclusion", link_cut, source=HASTY_SOURCE, target=HASTY_TARGET),
    Fault("target disk full", "not a byte for the engine, P.Haul's journals and logs", disk_full("/var/lib/docker")),
    Fault("target work directory full", "not a byte for CRIU's images", disk_full(WORK)),
    Fault("target memory limit", "containers there may not have as much as it has", memory_limited),
    Fault("clock ahead", "a day, for the program that halts", nothing, act=f"clock={DAY}"),
    Fault("clock behind", "a day, for the program that halts", nothing, act=f"clock=-{DAY}"),
)
