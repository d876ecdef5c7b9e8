"""The cgroup of a container: who is in it, whether it is frozen, thawing it without the engine.

Both layouts: a v1 `freezer` hierarchy (freezer.state) and v2 (cgroup.freeze, cgroup.events), as
the kernel's Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst and cgroup-v2.rst give them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phaul import procfs
from phaul.errors import HaulFailed

TICK_MS = 1
CGROUP = Path("/sys/fs/cgroup")


def is_v2() -> bool:
    """Whether the unified hierarchy alone is mounted."""
    return (CGROUP / "cgroup.controllers").exists()


def members(path: Path) -> list[int]:
    """Process ids in the cgroup and below it, as this host's proc shows them."""
    found: list[int] = []
    for procs in (path / "cgroup.procs", *path.glob("*/**/cgroup.procs")):
        with contextlib.suppress(OSError):  # it has gone, before or after it was opened
            found += [int(word) for word in procs.read_text().split()]
    return sorted(found)


def kill_all(path: Path) -> None:
    """SIGKILL for every task in the cgroup and below it."""
    for pid in members(path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Freezer:
    """A cgroup directory that can be frozen."""

    path: Path
    v2: bool

    def pids(self) -> list[int]:
        return members(self.path)

    def frozen(self) -> bool:
        if self.v2:
            return "frozen 1" in (self.path / "cgroup.events").read_text()
        return (self.path / "freezer.state").read_text().strip() == "FROZEN"

    def freeze(self, *, timeout: float) -> None:
        """Stop all tasks. Raises HaulFailed (not-frozen) where that takes longer than `timeout` seconds."""
        (self.path / ("cgroup.freeze" if self.v2 else "freezer.state")).write_text("1" if self.v2 else "FROZEN")
        if not self.comes_to_rest(timeout=timeout):
            raise HaulFailed(f"The tasks of {self.path.name} do not stand still.", code="not-frozen")

    def comes_to_rest(self, *, timeout: float) -> bool:
        """Whether it is frozen now, or is within `timeout` seconds, as somebody has asked."""
        until = deadline(timeout)
        with (self.path / ("cgroup.events" if self.v2 else "freezer.state")).open() as state:
            poll = select.poll()
            # cgroup v2 reports a change; v1 is read again until it has come to it, which is its own affair.
            poll.register(state, select.POLLPRI)
            while not self.frozen():
                if deadline(0) > until:
                    return False
                poll.poll(TICK_MS)
        return True

    def thaw(self) -> None:
        """Let the tasks run; a cgroup that is gone is thawed."""
        try:
            if self.v2:
                (self.path / "cgroup.freeze").write_text("0")
            else:
                (self.path / "freezer.state").write_text("THAWED")
        except OSError as error:
            # ENODEV: it went between the opening and the writing.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise

    def kill(self) -> None:
        """SIGKILL every task, then thaw: none comes back to user space."""
        kill_all(self.path)
        self.thaw()


def of(pid: int) -> Freezer:
    """The freezer of a process. Raises HaulFailed (no-freezer) where it has none of its own."""
    try:
        lines = procfs.lines(procfs.PROC / str(pid) / "cgroup")
    except OSError:
        raise HaulFailed(f"Process {pid} is gone.", code="gone") from None
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if is_v2() and number == "0":
            return _own(CGROUP / path.lstrip("/"), pid, v2=True)
        if "freezer" in controllers.split(","):
            return _own(CGROUP / "freezer" / path.lstrip("/"), pid, v2=False)
    raise HaulFailed(f"Process {pid} is in no freezer cgroup.", code="no-freezer")


def _own(path: Path, pid: int, *, v2: bool) -> Freezer:
    if path in (CGROUP, CGROUP / "freezer") or not path.is_dir():
        raise HaulFailed(f"Process {pid} is in the root cgroup, which cannot be frozen.", code="no-freezer")
    return Freezer(path, v2)


def of_container(pid: int, container: str) -> Freezer:
    """The container's own freezer, `pid` being one of its tasks.

    Raises HaulFailed (gone) where the pid is another's by now, as it may be after the host lost its power.
    """
    try:
        found = of(pid)
    except HaulFailed:
        found = Freezer(Path(), v2=False)
    for path in (found.path, *found.path.parents):
        if container in path.name:
            return Freezer(path, found.v2)
    raise HaulFailed(f"Process {pid} is none of container {container[:12]}: its tasks are gone.", code="gone")


def end(pid: int, container: str, *, timeout: float) -> bool:
    """SIGKILL for the container whose first task is `pid`; whether that ended within `timeout` seconds.

    Where the pid is another's by now the container has ended before, and nothing is done.
    """
    with contextlib.suppress(ProcessLookupError), _watched(pid) as descriptor:
        try:
            of_container(pid, container).kill()
        except HaulFailed:
            return True
        return _ends(descriptor, timeout)
    return True


def await_exit(pid: int, *, timeout: float) -> bool:
    """Whether the process ended within `timeout` seconds."""
    with contextlib.suppress(ProcessLookupError), _watched(pid) as descriptor:
        return _ends(descriptor, timeout)
    return True


@contextlib.contextmanager
def _watched(pid: int) -> Iterator[int]:
    """A descriptor of the process that has the pid now. Raises ProcessLookupError."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _ends(descriptor: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0, timeout) * 1000))


def deadline(seconds: float) -> float:
    """The monotonic clock's reading when `seconds` from now are over."""
    return time.monotonic() + seconds
