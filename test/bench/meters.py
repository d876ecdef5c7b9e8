"""What a haul costs: bytes on the wire, CPU time, memory, and how long the source is needed."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from lab import Host, cgroups

LOOK_S = 0.05
PROGRAMS = (b"/p.haul", b"phaul.guard")


def wire(host: Host) -> int:
    """Bytes that the host's interface has carried, both ways."""
    for line in host.proc("net/dev").splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "eth0":
            fields = counters.split()
            return int(fields[0]) + int(fields[8])
    raise AssertionError("a host of the lab has no eth0")


def cpu(*hosts: Host) -> float:
    """Seconds that all processes of the hosts, containers' as well, have used."""
    total = 0.0
    for host in hosts:
        for group in host.cgroups:
            with contextlib.suppress(OSError):
                total += int((group / "cpuacct.usage").read_text()) / 1e9
                break
            with contextlib.suppress(OSError, ValueError):
                if group.name == cgroups.V2_LEAF:
                    total += int((group.parent / "cpu.stat").read_text().split()[1]) / 1e6
                    break
    return total


class Watch:
    """Follows P.Haul's own processes on both hosts for their peak memory, and the source's workload to its end."""

    def __init__(self, source: Host, target: Host, pid: int) -> None:
        self.peaks = {source.name: 0, target.name: 0}
        self.ended = 0.0  # since the epoch; 0: not yet
        self._hosts = (source, target)
        self._handle = os.pidfd_open(pid)
        self._stop, self._stopper = os.pipe()
        self._thread = threading.Thread(target=self._follow, name="watch")

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watch]:
        for host in self._hosts:
            for process in ours(host):
                with contextlib.suppress(OSError):
                    (process / "clear_refs").write_text("5")  # its peak begins anew
        self._thread.start()
        try:
            yield self
        finally:
            os.close(self._stopper)
            self._thread.join()
            os.close(self._handle)
            os.close(self._stop)

    def await_end(self, timeout: float) -> bool:
        """Wait until the source's workload has ended."""
        deadline = time.monotonic() + timeout
        with contextlib.suppress(OSError):
            select.select([self._handle], [], [], max(0.0, deadline - time.monotonic()))
        return bool(select.select([self._handle], [], [], 0)[0])

    def _follow(self) -> None:
        watched = [self._stop, self._handle]
        while True:
            ready, _, _ = select.select(watched, [], [], LOOK_S)
            if self._handle in ready:
                self.ended = time.time()
                watched.remove(self._handle)
            self._look()
            if self._stop in ready:
                return

    def _look(self) -> None:
        for host in self._hosts:
            peaks = [peak(process) for process in ours(host)]
            self.peaks[host.name] = max(self.peaks[host.name], *peaks, 0)


def ours(host: Host) -> list[Path]:
    """The /proc directories of P.Haul's processes on the host."""
    found = []
    for pid in cgroups.members(host.cgroups[0]):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            python = b"python" in words.partition(b"\0")[0]
            if python and any(program in words for program in PROGRAMS):
                found.append(Path(f"/proc/{pid}"))
    return found


def peak(process: Path) -> int:
    """The most memory that it has had resident, in bytes."""
    with contextlib.suppress(OSError):
        for line in (process / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0
