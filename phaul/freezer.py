"""The cgroup of a container: who is in it, whether it is frozen, thawing it without the engine.

Both layouts: a v1 `freezer` hierarchy (freezer.state) and v2 (cgroup.freeze, cgroup.events), as
the kernel's Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst and cgroup-v2.rst give them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from phaul.errors import HaulFailed

CGROUP = Path("/sys/fs/cgroup")


def is_v2() -> bool:
    """Whether the unified hierarchy alone is mounted."""
    return (CGROUP / "cgroup.controllers").exists()


@dataclass(frozen=True)
class Freezer:
    """A cgroup directory that can be frozen."""

    path: Path
    v2: bool

    def pids(self) -> list[int]:
        """Process ids in the cgroup and below it, as this host's proc shows them."""
        found: list[int] = []
        for procs in (self.path / "cgroup.procs", *self.path.glob("*/**/cgroup.procs")):
            with contextlib.suppress(FileNotFoundError):
                found += [int(word) for word in procs.read_text().split()]
        return sorted(found)

    def frozen(self) -> bool:
        if self.v2:
            return "frozen 1" in (self.path / "cgroup.events").read_text()
        return (self.path / "freezer.state").read_text().strip() == "FROZEN"

    def thaw(self) -> None:
        """Let the tasks run; a cgroup that is gone is thawed."""
        with contextlib.suppress(FileNotFoundError):
            if self.v2:
                (self.path / "cgroup.freeze").write_text("0")
            else:
                (self.path / "freezer.state").write_text("THAWED")

    def kill(self) -> None:
        """SIGKILL every task, then thaw: none comes back to user space."""
        with contextlib.suppress(FileNotFoundError):
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.thaw()


def of(pid: int) -> Freezer:
    """The freezer of a process. Raises HaulFailed (no-freezer) where it has none of its own."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
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


def await_exit(pid: int, *, timeout: float) -> bool:
    """Whether the process ended within `timeout` seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(max(0, timeout) * 1000))
    finally:
        os.close(descriptor)


def deadline(seconds: float) -> float:
    """The monotonic clock's reading when `seconds` from now are over."""
    return time.monotonic() + seconds
