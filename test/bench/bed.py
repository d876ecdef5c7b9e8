"""Two hosts on which hauls are measured, and the workload on them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import Host, Lab, LabError, clean, dockerd, images, service, shaping, tools, workloads
from lab.waiting import kill_all, until

from .cases import Case
from .ticks import Tick, read

# A memory file system that both hosts have: here the workload writes, whichever host it is on.
SHARED = "/srv/bench"
TICKS = f"{SHARED}/ticks"
PROGRAM = "workload"
VOLUME = "bench-data"
VOLUME_AT = f"/var/lib/docker/volumes/{VOLUME}/_data"
PODMAN = ("podman", "crun", "netavark", "aardvark-dns", "conmon")
START_S = 120
SETTLED = 300  # records that are awaited before the haul and after it


@dataclass(frozen=True)
class Bed:
    """The hosts, set up for all rivals."""

    lab: Lab
    source: Host
    target: Host

    @classmethod
    @contextlib.contextmanager
    def up(cls, *, podman: bool) -> Iterator[Bed]:
        """Raises LabError where it does not come up."""
        name = f"bench-{os.getpid()}"
        with Lab.up(name, docker=False, packages=PODMAN if podman else ()) as lab:
            bed = cls(lab, *lab.hosts)
            for host in lab.hosts:
                # Without it the engine's own checkpoints are not to be had.
                settings = {"storage-driver": "overlay2", "experimental": True}
                host.path(dockerd.CONFIG).write_text(json.dumps(settings))
            lab.start_docker()
            for host in lab.hosts:
                images.load(host, PROGRAM)
            service.pair(bed.source, bed.target)
            bed._share()
            yield bed

    def _share(self) -> None:
        self.source.run("mkdir", "-p", SHARED)
        self.source.run("mount", "-t", "tmpfs", "-o", "size=90%", "bench", SHARED)
        share = [tools.directory() / "share", str(self.source.pid), str(self.target.pid), SHARED]
        subprocess.run(share, check=True, timeout=30)
        self.source.put(f"{SHARED}/{PROGRAM}", (tools.directory() / PROGRAM).read_bytes())
        self.source.run("chmod", "755", f"{SHARED}/{PROGRAM}")

    @contextlib.contextmanager
    def sample(self, case: Case) -> Iterator[None]:
        """What the block leaves on the hosts is removed after it; the link is the case's during it."""
        before = clean.baselines(*self.lab.hosts)
        self.ticks.unlink(missing_ok=True)
        link = contextlib.nullcontext()
        if case.link:
            link = shaping.link(self.lab, mbit=case.link[0], round_trip_ms=case.link[1])
        try:
            with link:
                yield
        finally:
            clean.restore_all(before)
            for host in self.lab.hosts:
                kill_all(self.workloads(host))

    @property
    def ticks(self) -> Path:
        return self.source.path(TICKS)

    def arguments(self, case: Case, *, data: str = "/data") -> tuple[str, ...]:
        """The workload's command line; `data` is where it finds the volume."""
        volume = (data, "10") if case.volume_mib else ()
        return (TICKS, str(case.mib), str(case.hot_mib), *volume)

    def workloads(self, host: Host) -> list[int]:
        """The pids of the workload's processes on the host, as this machine sees them."""
        return workloads.processes(host, PROGRAM)

    def workload(self, host: Host) -> int:
        """The pid of the one that writes; its child rewrites a volume."""
        pids = self.workloads(host)
        parents = [int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in pids]
        writers = [pid for pid, parent in zip(pids, parents, strict=True) if parent not in pids]
        if len(writers) != 1:
            raise LabError(f"{len(writers)} workloads run on {host.name}.")
        return writers[0]

    def newest(self) -> Tick | None:
        """The last record."""
        with contextlib.suppress(FileNotFoundError):
            return (read(self.ticks, last=1) or [None])[0]
        return None

    def await_ticks(self, more: int = SETTLED, *, timeout: float = START_S) -> None:
        """Wait until there are so many records more. Raises LabError."""
        last = self.newest()
        number = (last.number if last else -1) + more

        def there() -> bool:
            tick = self.newest()
            return tick is not None and tick.number >= number

        until(there, "the workload to go on", timeout=timeout)

    def verify(self, host: Host, *, timeout: float = START_S) -> None:
        """Have the workload check all its memory, and wait for that."""
        os.kill(self.workload(host), signal.SIGUSR1)
        until(lambda: (tick := self.newest()) and tick.checks, "the check of all memory", timeout=timeout)

    def make_volume(self, case: Case) -> None:
        """A volume on the source, full of random bytes; it stays."""
        self.source.docker("volume", "create", VOLUME)
        script = 'cd "$0"; for n in $(seq -w "$1"); do head -c 1M /dev/urandom >f$n; done'
        self.source.run("sh", "-ec", script, VOLUME_AT, str(case.volume_mib), timeout=START_S)

    def fill(self, root: Path, case: Case) -> None:
        """Small files below that root, in directories of a hundred."""
        for number in range(case.files):
            directory = root / "srv" / f"{number // 100:04}"
            if number % 100 == 0:
                directory.mkdir(parents=True)
            (directory / f"{number:06}").write_bytes(b"%d\n" % number)
