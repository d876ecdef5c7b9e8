"""What P.Haul is to reach, and whether it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

from .results import Results

MIB = 1 << 20
# Which competitor's figures count as post-copy, and which as the mode in which nothing depends on the source.
POST = ("phaul-postcopy",)
SAFE = ("phaul-auto", "phaul-stopcopy", "phaul")


@dataclass(frozen=True)
class Target:
    """`figure` is None where something that it needs was not measured."""

    words: str
    limit: float
    figure: float | None
    unit: str = "x"
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.figure is None:
            return None
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    @property
    def measured(self) -> str:
        return "-" if self.figure is None else f"{self.figure:.3g} {self.unit}"

    @property
    def wanted(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g} {self.unit}"


def all_of(results: Results) -> list[Target]:
    """Every target, in order."""
    return [*post_copy(results), *safe_mode(results), *costs(results)]


def post_copy(results: Results) -> Iterator[Target]:
    """Those of post-copy."""
    post = first(results, POST)
    small, gib, large = (results.downtime(case, post) for case in ("16m", "1g", "4g"))
    lazy, bare = results.downtime("16m", "runc-lazy"), results.downtime("16m", "criu")
    yield Target("post-copy, 16 MiB ÷ bare runc lazy checkpoint + restore", 1.3, ratio(small, lazy))
    yield Target("post-copy, 16 MiB ÷ bare criu", 4, ratio(small, bare))
    yield Target("post-copy, 4 GiB ÷ 16 MiB", 1.5, ratio(large, small))
    stock = results.downtime("1g", "docker")
    yield Target("docker checkpoint ÷ post-copy, 1 GiB", 100, ratio(stock, gib), at_least=True)


def safe_mode(results: Results) -> Iterator[Target]:
    """Those of 1 GiB where nothing depends on the source."""
    own = results.downtime("1g", first(results, SAFE))
    for rival, limit in (("docker", 10), ("podman", 2), ("script", 2)):
        name = results.words.get(rival, rival)
        yield Target(f"{name} ÷ safe mode, 1 GiB", limit, ratio(results.downtime("1g", rival), own), at_least=True)
    channel = sorted(results.channel)[len(results.channel) // 2] if results.channel else None
    yield Target("safe mode, 1 GiB ÷ 1 GiB through the same channel", 1.3, ratio(own, channel))


def costs(results: Results) -> Iterator[Target]:
    """Bytes, the frozen pass, memory."""
    safe = first(results, SAFE)
    wire, resident = (results.median("1g", safe, figure) for figure in (attrgetter("wire"), attrgetter("resident")))
    yield Target("bytes on the wire ÷ resident memory, 1 GiB idle", 1.03, ratio(wire, resident))
    files, without = results.downtime("files", safe), results.downtime("16m", safe)
    more = None if files is None or without is None else (files - without) * 1000
    yield Target("downtime that 100,000 unchanged files add", 50, more, unit="ms")
    own = [sample for sample in results.samples if sample.rival.startswith("phaul") and not sample.error]
    for who, figure in (("p.haul", attrgetter("peak_source")), ("p.haul-service", attrgetter("peak_target"))):
        peak = max(map(figure, own)) / MIB if own else None
        yield Target(f"peak resident memory of {who}, all cases", 96, peak, unit="MiB")


def first(results: Results, names: tuple[str, ...]) -> str:
    """The first of the names that was measured; the last one where none was."""
    there = results.rivals()
    return next((name for name in names if name in there), names[-1])


def ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None
