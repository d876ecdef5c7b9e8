"""What a p.haul-service costs that has nothing to do."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from . import look
from .bed import Bed

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Idle:
    """In so many seconds, of the service and its guard together: CPU time, switches; memory (PSS) in bytes."""

    seconds: float
    cpu: float
    switches: int
    service: int
    guard: int


def watch(bed: Bed, seconds: float) -> Idle:
    """The service of b."""
    service = Path(f"/proc/{bed.services['b'].pid}")
    every = [service, *(path for path in look.processes(bed.b, b"phaul.guard") if look.parent(path) == service.name)]
    cpu, switches = sum(map(spent, every)), sum(map(switched, every))
    threading.Event().wait(seconds)  # the span that is measured
    return Idle(
        seconds,
        sum(map(spent, every)) - cpu,
        sum(map(switched, every)) - switches,
        look.pss(service),
        sum(map(look.pss, every[1:])),
    )


def spent(process: Path) -> float:
    """CPU seconds that it has used."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def switched(process: Path) -> int:
    """How often any of its threads came to a processor."""
    found = 0
    for status in process.glob("task/*/status"):
        lines = (line.split() for line in status.read_text().splitlines())
        found += sum(int(words[1]) for words in lines if words[0].endswith("ctxt_switches:"))
    return found
