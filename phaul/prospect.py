"""What is expected of a haul's memory: measured before anything is frozen, told, and corrected with each round."""

from __future__ import annotations

import argparse
from typing import Any

from phaul import forecast, outlook
from phaul.display import Display
from phaul.htype import Source
from phaul.mstats import Stats, readable
from phaul.preflight import Plan
from phaul.targets import Reach


class Prospect:
    """Of a plan and its options; `rounds` is how it is known what to send in pre-copy, "" where there is none."""

    def __init__(self, plan: Plan, options: argparse.Namespace, stats: Stats, show: Display) -> None:
        self._plan, self._options, self._stats, self._show = plan, options, stats, show
        self._rate = 0.0
        self.rounds = outlook.rounds_of(plan, options)
        self._terms: dict[str, Any] = {
            "memory": plan.memory,
            "mode": options.mode,
            "lazy": plan.capabilities.post_copy,
            "rounds": self.rounds,
            "budget_ms": options.max_downtime,
        }

    def choose(self, reach: Reach, source: Source) -> None:
        """Every channel that is opened from now on is packed as it is chosen here."""
        seen = outlook.look(reach, source, self._plan, self._options, pace=self._stats.pace, thorough=False)
        self._stats.codec, self._rate = seen.way.codec, seen.way.rate
        self._stats.expected_downtime = still = seen.expected.downtime
        facts = {key: self._terms[key] for key in ("mode", "rounds", "memory")}
        told = {**facts, "codec": seen.way.codec, "rate": int(seen.way.rate), "expected_downtime": round(still, 3)}
        self._show.say(seen.expected.words, "choice", **told)

    def _downtime(self, *, last: int) -> float:
        return forecast.downtime(rate=self._rate, last=last, **self._terms)

    def in_round(self, number: int, size: int | None) -> None:
        """What pre_copy.Telling hears: in the first round all of the memory goes, later what has changed."""
        if number == 1 or size is None:
            self._stats.in_round(number, self._plan.memory if number == 1 else None)
        if size is None:
            return
        self._stats.has_changed(number, size)
        if self.rounds == forecast.TRACKED:
            self._stats.in_round(number, size)
        if number > 1:
            self._stats.expected_downtime = self._downtime(last=size)
        self._show.say(f"round {number}: {readable(size)} changed", "round", round=number, changed=size)
