"""What is expected of a haul's memory: measured before anything is frozen, told, and corrected with each round."""

from __future__ import annotations

import argparse
from typing import Any

from phaul import forecast
from phaul.connection import Connection
from phaul.display import Display
from phaul.htype import Source
from phaul.mstats import Stats, readable
from phaul.preflight import Plan


class Prospect:
    """Of a plan and its options; `rounds` is how it is known what to send in pre-copy, "" where there is none."""

    def __init__(self, plan: Plan, options: argparse.Namespace, stats: Stats, show: Display) -> None:
        self._plan, self._stats, self._show = plan, stats, show
        self._compress = options.compress if plan.capabilities.compress else "none"
        self._rate = 0.0
        self.rounds = ""
        if plan.capabilities.in_rounds and options.mode in ("auto", "precopy"):
            self.rounds = forecast.TRACKED if plan.capabilities.pre_dump else forecast.COMPARED
        self._terms: dict[str, Any] = {
            "memory": plan.memory,
            "mode": options.mode,
            "lazy": plan.capabilities.post_copy,
            "rounds": self.rounds,
            "budget_ms": options.max_downtime,
        }

    def choose(self, speed: Connection, source: Source) -> None:
        """Every channel that is opened from now on is packed as it is chosen here."""
        pace = self._stats.pace
        rate = forecast.measure(speed, memory=self._plan.memory, pace=pace)
        rate = min(rate, pace.rate or rate)
        trial = forecast.attempt(source.sample(forecast.SAMPLE)) if self._compress != "none" else None
        way = forecast.choose(self._compress, trial, rate)
        self._stats.codec, self._rate = way.codec, way.rate
        self._stats.expected_downtime = still = self._downtime(last=0)
        facts = {key: self._terms[key] for key in ("mode", "rounds", "memory")}
        words = forecast.sentence(way=way, **self._terms)
        self._show.say(words, "choice", **facts, codec=way.codec, rate=int(way.rate), expected_downtime=round(still, 3))

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
