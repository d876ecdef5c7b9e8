"""p.haul status and cancel: what the journals of this host know, and what a running p.haul answers."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from phaul import desk, display_json, journal, resolve
from phaul.display import downtime, flow
from phaul.errors import HaulFailed, Refused, from_peer
from phaul.history import DIRECTIONS, moment, whose
from phaul.journal import SOURCE, TARGET, Journal
from phaul.mstats import Seen
from phaul.streams import harmless

UNDER_WAY, SETTLING, DEAD, IN_DOUBT = "under-way", "settling", "dead", "in-doubt"
THERE = {
    journal.BEGUN: "being prepared here",
    journal.HELD: "restored here, and held frozen",
    journal.RUNNING: "released here; its memory still comes, or it is being settled",
}


@dataclass(frozen=True)
class Standing:
    """A haul that is not over. `told` is what a running p.haul says of it."""

    record: Journal
    standing: str
    told: dict[str, Any] | None = None


def standings(name: str = "") -> list[Standing]:
    """What is not over on this host, of that subject only where one is named; the newest first."""
    found = []
    for side in (SOURCE, TARGET):
        for record in journal.unsettled(side):
            if not name or resolve.means(record, name):
                with contextlib.suppress(FileNotFoundError):
                    found.append(_standing(record))
    return found


def _standing(record: Journal) -> Standing:
    if record.side == SOURCE and (told := _ask(record, desk.STATUS)):
        return Standing(record, UNDER_WAY, told)
    if journal.is_carried(record.path):
        # Of a source that does not answer, somebody else carries the journal on: the guard, or p.haul --resolve.
        return Standing(record, SETTLING if record.side == SOURCE else UNDER_WAY)
    return Standing(record, IN_DOUBT if record.state == journal.COMMITTED else DEAD)


def _ask(record: Journal, question: str, **options: float) -> dict[str, Any] | None:
    work = Path(str(record.head.get("work", "")))
    return desk.ask(work, question, **options) if work.is_absolute() else None


def status(options: argparse.Namespace) -> int:
    """Tell of every haul that is not over, or of the named one. Raises Refused (no-haul) where that has none."""
    found = standings(options.container or "")
    if options.container and not found:
        raise Refused(f"No haul of {options.container!r} is under way or in doubt on this host.", code="no-haul")
    for one in found:
        if options.json:
            display_json.write(sys.stdout, "status", **_status_facts(one))
        else:
            print(harmless("\n".join(_status_lines(one))))
    if not found and not options.json:
        print("No haul is under way on this host, and none is in doubt.")
    return 0


def _status_facts(one: Standing) -> dict[str, Any]:
    found = {**whose(one.record), "state": one.record.state, "standing": one.standing}
    return {**found, "progress": asdict(_seen(one.told))} if one.told else found


def _seen(told: dict[str, Any]) -> Seen:
    return Seen(**{key: value for key, value in told.items() if key != "state"})


def _status_lines(one: Standing) -> list[str]:
    record, head = one.record, one.record.head
    since, seconds = moment(head["begun"]), time.time() - float(head["begun"])
    where = f"{record.subject} {DIRECTIONS[record.side]} {head['peer']}"
    return [f"{where}  ({head['type']}, since {since}, {seconds:.0f} s)", f"   {_how(one)}"]


def _how(one: Standing) -> str:
    name, state = one.record.subject, one.record.state
    if one.told:
        seen = _seen(one.told)
        in_round = f"  round {seen.round}" if seen.round else ""
        return f"{seen.phase} {seen.phase_seconds:.1f} s{in_round}  {flow(seen)}  {downtime(seen)}".rstrip()
    if one.standing == SETTLING:
        return f"{state}; it is being settled just now"
    if one.standing == UNDER_WAY:
        return THERE.get(state, state)
    if one.record.side == TARGET:
        return f"{THERE.get(state, state)}, but no p.haul-service carries it on: it is settled when one starts"
    if one.standing == IN_DOUBT:
        return f"in doubt: committed, and its p.haul has ended; p.haul --resolve {name} decides"
    return f"{state}, and its p.haul is dead: p.haul --resolve {name} takes it back"


def cancel(options: argparse.Namespace) -> int:
    """Call off the haul that is under way from here. Raises Refused (no-haul, too-late), and what it failed with."""
    name = options.container
    found = [one for one in standings(name) if one.record.side == SOURCE]
    if not found:
        raise Refused(f"No haul of {name!r} is under way from this host.", code="no-haul")
    record, standing = found[0].record, found[0].standing
    if standing != UNDER_WAY:
        sentence = f"No p.haul moves {record.subject} any more: p.haul --resolve {record.subject} settles it."
        raise Refused(sentence, code="haul-busy" if standing == SETTLING else "unsettled")
    verdict = _ask(record, desk.CANCEL, timeout=desk.VERDICT_SECONDS)
    if verdict is None:
        raise HaulFailed(f"The p.haul that moves {name} ended without an answer: see p.haul status.", code="no-answer")
    if verdict["verdict"] == desk.TOO_LATE:
        sentence = f"{record.subject} is committed to {record.head['peer']}: it is too late to cancel, and it arrives."
        raise Refused(sentence, code="too-late")
    if verdict["code"] != "cancelled":
        raise from_peer(verdict["sentence"], verdict["code"], verdict["status"], "")
    print(verdict["sentence"])
    return 0
