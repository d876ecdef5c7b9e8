"""Many containers hauled at once, between hosts on which others run."""

from __future__ import annotations

import re
import statistics
import subprocess
import time
from dataclasses import dataclass

from lab import workloads
from lab.host import kill_group

from .bed import HAUL_S, Bed, complete, counters

CLEAR_S = 900


@dataclass(frozen=True)
class Crowd:
    """What became of it; seconds. `downtimes` are as the counters have seen them."""

    moved: int
    others: int  # on each host
    seconds: float
    downtimes: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.downtimes)


def move(bed: Bed, count: int, others: int) -> Crowd:
    """Raises AssertionError unless all arrive whole, and nobody else has missed anything."""
    moving = [f"move-{number}" for number in range(count)]
    staying = [f"stay-{number}" for number in range(others)]
    counters(bed.a, *moving, *staying)
    counters(bed.b, *staying)
    try:
        begun = time.monotonic()
        every_one(bed, moving)
        seconds = time.monotonic() - begun
        for host in bed.lab.hosts:
            for name in staying:
                complete(host, name)
        for name in moving:
            complete(bed.b, name)
        downtimes = tuple(workloads.downtime(workloads.ticks(bed.b, name)) for name in moving)
        return Crowd(count, others, seconds, downtimes)
    finally:
        for host in bed.lab.hosts:
            host.run("sh", "-c", "docker ps -aq | xargs -rn 1 -P 4 docker rm -f", timeout=CLEAR_S)


def every_one(bed: Bed, names: list[str]) -> None:
    """At once. Raises AssertionError with what one that did not move has said."""
    hauls = [
        bed.a.popen("p.haul", "docker", name, bed.b.ip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for name in names
    ]
    try:
        for name, haul in zip(names, hauls, strict=True):
            said, _ = haul.communicate(timeout=HAUL_S)
            text = said.decode(errors="replace")
            assert haul.returncode == 0 and re.search(r"^Downtime \d+ ms", text, re.MULTILINE), f"{name}: {text}"
    finally:
        for haul in hauls:
            if haul.poll() is None:
                kill_group(haul)
