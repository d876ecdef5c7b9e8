"""One haul measured, and many in turn."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from lab import LabError

from . import channel, meters, profile, ticks
from .bed import Bed
from .cases import Case
from .results import Results, Sample
from .rivals import Rival

ENDS_S = 120  # how long after a haul the source may still be needed
BEFORE_S = 0.2
SPARE = 0.2  # of the workload's size
LACKING = "too little memory was free"
GIVEN_UP_AFTER = 2  # failures of a rival in a case


def sample(bed: Bed, rival: Rival, case: Case, number: int) -> Sample:
    """Haul once. A failure is written in the sample."""
    taken = Sample(case.name, rival.name, number)
    try:
        with bed.sample(case):
            try:
                _haul(bed, rival, case, taken)
            finally:
                rival.clear(bed)
    except Exception as error:
        taken.error = reason(str(error) or repr(error))
        taken.said += f"\n{error}"
    return taken


def _haul(bed: Bed, rival: Rival, case: Case, taken: Sample) -> None:
    must_fit(case, rival)
    rival.start(bed, case)
    bed.await_ticks()
    pid = bed.workload(bed.source)
    taken.resident = resident(pid)
    watch = meters.Watch(bed.source, bed.target, pid)
    with watch.watching():
        wire, cpu, begun = meters.wire(bed.target), meters.cpu(*bed.lab.hosts), time.time()
        taken.said = rival.haul(bed)
        ended = time.time()
        if not watch.await_end(ENDS_S):
            raise ticks.Broken(f"the source's copy is still there {ENDS_S} s after the haul")
        taken.wire, taken.cpu = meters.wire(bed.target) - wire, meters.cpu(*bed.lab.hosts) - cpu
    taken.peak_source, taken.peak_target = (watch.peaks[host.name] for host in (bed.source, bed.target))
    bed.await_ticks()
    seen = ticks.read(bed.ticks)
    taken.downtime, runs = ticks.gap([tick for tick in seen if tick.when > begun - BEFORE_S])
    taken.total = max(ended, watch.ended) - begun
    taken.independent = max(runs, watch.ended) - begun
    if rival.name.startswith("phaul"):
        taken.profile = profile.take(bed.source, bed.target, stopped=runs - taken.downtime, runs=runs)
    bed.verify(bed.source if rival.alone else bed.target)
    ticks.check(ticks.read(bed.ticks))


def must_fit(case: Case, rival: Rival) -> None:
    """The hosts' disks are memory too. Raises LabError where there is too little of it."""
    needed = int(case.mib * (rival.copies + SPARE))
    free = int(re.search(r"^MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)[1]) >> 10
    if free < needed:
        raise LabError(f"{needed} MiB of memory are needed, {free} MiB are free.\n{LACKING}")


def resident(pid: int) -> int:
    """The process's own memory in bytes, without files."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


def reason(text: str) -> str:
    """The line that says why: P.Haul's own sentence, CRIU's first error, or else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for mark in ("p.haul: ", "Error (", "Error: ", "Error response"):
        for line in lines:
            # CRIU cannot raise a limit of its own without CAP_SYS_RESOURCE, and goes on without.
            if mark in line and "RLIMIT_NOFILE" not in line:
                return line[line.index(mark) :].removeprefix("p.haul: ")[:300]
    return lines[-1][:300]


class Round:
    """All rivals in all cases, one after another, as often as is wanted and as time allows."""

    def __init__(self, bed: Bed, results: Results, told: Callable[[str], None]) -> None:
        self.bed, self.results, self.told = bed, results, told
        self._failures: Counter[tuple[str, str]] = Counter()

    def run(self, number: int, work: Sequence[tuple[Case, Rival]], *, channel_mib: int, until: float) -> bool:
        """One round; False where the time is over."""
        self._channel(channel_mib)
        for case, rival in work:
            if time.monotonic() > until:
                return False
            if self._failures[case.name, rival.name] < GIVEN_UP_AFTER:
                self._sample(number, case, rival)
        return True

    def _sample(self, number: int, case: Case, rival: Rival) -> None:
        begun = time.monotonic()
        taken = sample(self.bed, rival, case, number)
        self.results.samples.append(taken)
        # One that had too little memory to begin may have it in the next round.
        self._failures[case.name, rival.name] += bool(taken.error and taken.error != LACKING)
        outcome = taken.error or f"{taken.downtime * 1000:.0f} ms"
        took = f"{time.monotonic() - begun:.0f} s with all about it"
        self.told(f"{number}  {case.name:7} {rival.name:16} {outcome:12} {took}")

    def _channel(self, mib: int) -> None:
        try:
            seconds = channel.copy(self.bed, mib)
        except Exception as error:
            self.results.channel_error = reason(str(error) or repr(error))
            return
        self.results.channel.append(seconds * 1024 / mib)
        self.told(f"{len(self.results.channel)}  {mib} MiB through the channel: {seconds * 1000:.0f} ms")
