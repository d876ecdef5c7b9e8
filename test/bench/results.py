"""What was measured, and the figures that follow from it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .profile import Mark


@dataclass
class Sample:
    """One haul: seconds, bytes; `error` is set where it failed, and its figures do not count then."""

    case: str
    rival: str
    round: int
    downtime: float = 0.0
    total: float = 0.0
    independent: float = 0.0  # from the command's start until nothing of the source is needed
    wire: int = 0
    cpu: float = 0.0
    resident: int = 0  # the workload's memory before the haul
    peak_source: int = 0
    peak_target: int = 0
    error: str = ""
    said: str = ""
    profile: list[Mark] = field(default_factory=list)


@dataclass
class Results:
    """All samples of a run. `channel` is how long 1 GiB took through P.Haul's own channel, in seconds, each time."""

    machine: dict[str, str]
    rounds: int
    words: dict[str, str]  # of each rival and each case
    samples: list[Sample] = field(default_factory=list)
    channel: list[float] = field(default_factory=list)
    channel_error: str = ""

    def of(self, case: str, rival: str) -> list[Sample]:
        """Those that went well."""
        return [sample for sample in self._all(case, rival) if not sample.error]

    def errors(self, case: str, rival: str) -> list[str]:
        return [sample.error for sample in self._all(case, rival) if sample.error]

    def _all(self, case: str, rival: str) -> list[Sample]:
        return [sample for sample in self.samples if (sample.case, sample.rival) == (case, rival)]

    def median(self, case: str, rival: str, figure: Callable[[Sample], float]) -> float | None:
        """None where no sample went well."""
        found = [figure(sample) for sample in self.of(case, rival)]
        return statistics.median(found) if found else None

    def downtime(self, case: str, rival: str) -> float | None:
        return self.median(case, rival, lambda sample: sample.downtime)

    def typical(self, case: str, rival: str) -> Sample | None:
        """The sample whose downtime is the median."""
        found = sorted(self.of(case, rival), key=lambda sample: sample.downtime)
        return found[(len(found) - 1) // 2] if found else None

    def cases(self) -> list[str]:
        return ordered(sample.case for sample in self.samples)

    def rivals(self, case: str | None = None) -> list[str]:
        return ordered(sample.rival for sample in self.samples if case in (None, sample.case))

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def ordered(names: Iterable[str]) -> list[str]:
    """Each once, in the order of their first coming."""
    return list(dict.fromkeys(names))
