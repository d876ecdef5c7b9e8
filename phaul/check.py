"""`p.haul check`: what a haul would find, move and take, read from both hosts without touching either."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from phaul import outlook, preflight, resolve
from phaul.errors import Finding
from phaul.htype import Driver, Source
from phaul.outlook import Outlook
from phaul.overview import Overview
from phaul.pace import Pace
from phaul.preflight import Survey
from phaul.targets import Reach
from phaul.xem_rpc import Caller

MOVABLE, WARNINGS, BLOCKED = "movable", "warnings", "blocked"


@dataclass(frozen=True)
class Report:
    """What there is to tell; `overview` and `outlook` are None where the target could not be asked."""

    haul_type: str
    subject: str
    target: str
    survey: Survey
    overview: Overview | None = None
    outlook: Outlook | None = None

    @property
    def verdict(self) -> str:
        """MOVABLE, WARNINGS or BLOCKED."""
        if self.survey.blockers:
            return BLOCKED
        return WARNINGS if self.survey.findings else MOVABLE

    @property
    def findings(self) -> list[Finding]:
        """Blockers first."""
        return sorted(self.survey.findings, key=lambda finding: not finding.blocks)


def examine(driver: Driver, source: Source, reach: Reach, options: argparse.Namespace) -> Report:
    """Raises what keeps a haul from its check: Refused (unsettled, haul-busy), Unreachable, NotTrusted and the like."""
    resolve.refuse_unsettled(source.name)
    caller = Caller(reach.open("control"))
    try:
        seen = preflight.survey(driver, source, caller, options)
    finally:
        caller.close()
    told = Report(driver.name, source.name, reach.name, seen)
    if not seen.plan:
        return told
    overview = source.overview(list(seen.plan.lacks))
    expected = outlook.look(reach, source, seen.plan, options, pace=Pace(options.bandwidth), thorough=True)
    return Report(driver.name, source.name, reach.name, seen, overview, expected)
