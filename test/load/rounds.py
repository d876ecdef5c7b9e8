"""One container hauled to and fro, and whether what the hosts hold grows with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lab import LabError
from lab.waiting import until

from . import look
from .bed import HAUL_S, Bed, complete, counters
from .look import BYTES, KEPT, Figures

NAME = "shuttle"
SETTLES_S = 60
# How much more there may be at the end than at the beginning, by the line that fits best: of what is counted, of bytes.
COUNT, SHARE = 0.5, 0.05


@dataclass
class Rounds:
    """What each host held after so many hauls."""

    hauls: int = 0
    seconds: float = 0.0
    numbers: int = 0  # that the counter has written, each once
    looks: dict[int, dict[str, Figures]] = field(default_factory=dict)

    def growth(self, host: str, name: str, since: int) -> float:
        """From the look after `since` hauls until the last, by the line that fits the looks best."""
        points = [(number, seen[host][name]) for number, seen in self.looks.items() if number >= since]
        return slope(points) * (points[-1][0] - points[0][0])

    def grows(self, since: int) -> list[str]:
        """What has grown by more than is allowed."""
        found = []
        for host, figures in next(iter(self.looks.values())).items():
            for name in figures.keys() - KEPT:
                grown, first = self.growth(host, name, since), self.looks[min(self.looks)][host][name]
                if grown > (first * SHARE if name in BYTES else COUNT):
                    found.append(f"{name} of {host} by {grown:.1f}")
        return sorted(found)


def slope(points: list[tuple[int, float]]) -> float:
    """Of the line that fits them best (least squares)."""
    middle_x, middle_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    square = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / square if square else 0.0


def run(bed: Bed, hauls: int, every: int, told: Callable[[str], None] = lambda _: None) -> Rounds:
    """An even number of hauls, looked at after `every` so many. Raises AssertionError where a number is missing."""
    counters(bed.a, NAME)
    rounds, begun = Rounds(), time.monotonic()
    for number in range(1, hauls + 1):
        here, there = (bed.a, bed.b) if number % 2 else (bed.b, bed.a)
        here.run("p.haul", "docker", "--remove-source", NAME, there.ip, timeout=HAUL_S)
        rounds.hauls = number
        if number % every == 0:
            rounds.looks[number] = {host.name: settled(bed, host.name) for host in bed.lab.hosts}
            told(f"{number} hauls, {time.monotonic() - begun:.0f} s")
    rounds.seconds = time.monotonic() - begun
    rounds.numbers = complete(bed.a if hauls % 2 == 0 else bed.b, NAME)
    return rounds


def settled(bed: Bed, name: str) -> Figures:
    """Once nothing of the last haul is under way: of what passes there is as little as in the look before."""
    host, seen = bed.lab.host(name), []

    def same() -> bool:
        seen.append(look.at(bed, host))
        return len(seen) > 1 and all(seen[-1][key] == seen[-2][key] for key in seen[-1].keys() - BYTES)

    try:
        until(same, f"{name} to come to rest", timeout=SETTLES_S, interval=0.3)
    except LabError:
        pass  # what does not come to rest shows in the figures
    return seen[-1]
