"""What a planned haul will take over the link that there is: measured without a trace on either host."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from phaul import forecast
from phaul.forecast import Expected, Way
from phaul.htype import Source
from phaul.overview import Part
from phaul.pace import Pace
from phaul.preflight import Plan
from phaul.targets import Reach

# What the engines take before and after the downtime, and bytes a second that rsync and an engine come to at most.
AROUND_SECONDS = 1.0
FILES_RATE = 250 << 20


@dataclass(frozen=True)
class Outlook:
    """`link` is in bytes a second, as measured or as `--bandwidth` limits it; `way` is how what is sent will go."""

    link: float
    way: Way
    expected: Expected

    def total(self, parts: tuple[Part, ...]) -> float:
        """Seconds that the whole haul is expected to take, which moves these parts."""
        memory = sum(part.size for part in parts if part.kind == "memory")
        files = sum(part.size for part in parts) - memory
        sent = memory / self.way.rate + files / min(self.way.rate, FILES_RATE)
        return AROUND_SECONDS + self.expected.downtime + sent


def look(
    reach: Reach, source: Source, plan: Plan, options: argparse.Namespace, *, pace: Pace, thorough: bool
) -> Outlook:
    """Measure the link, and try to compress some of the memory. Raises what a connection to the target raises.

    What is sent for it is a small part of the memory, unless it is to be `thorough`: at most forecast.PROBE_BYTES.
    """
    channel = reach.open("data", channel=forecast.CHANNEL)
    probed = forecast.PROBE_PART * forecast.PROBE_BYTES if thorough else plan.memory
    link = forecast.measure(channel, memory=probed, pace=pace)
    link = min(link, pace.rate or link)
    wish = options.compress if plan.capabilities.compress else "none"
    trial = forecast.attempt(source.sample(forecast.SAMPLE)) if wish != "none" else None
    way = forecast.choose(wish, trial, link)
    expected = forecast.expect(
        memory=plan.memory,
        way=way,
        mode=options.mode,
        lazy=plan.capabilities.post_copy,
        rounds=rounds_of(plan, options),
        budget_ms=options.max_downtime,
    )
    return Outlook(link, way, expected)


def rounds_of(plan: Plan, options: argparse.Namespace) -> str:
    """How it will be known what to send in the last of the rounds before the freeze; "" where there are none."""
    if not plan.capabilities.in_rounds or options.mode not in ("auto", "precopy"):
        return ""
    return forecast.TRACKED if plan.capabilities.pre_dump else forecast.COMPARED
