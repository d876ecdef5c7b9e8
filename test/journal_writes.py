"""Every record that a haul writes into its journals, as a place for a test to break the haul off at.

journal_writes.json holds them, as a haul of the counter (faults.Scene) writes them in each mode. A test in
test_haul_journal.py compares it with such a haul; with PHAUL_WRITES=new in the environment it writes it anew.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("journal_writes.json")
MODES = ("auto", "postcopy")
HOSTS = {"source": "a", "target": "b"}
# Both modes write the same before; of the second only these and what follows is taken.
MODES_DIFFER_FROM = {"source": "state.committed", "target": "state.held"}
# Where a program is killed: its record not begun, half of it on disk, all of it and its act not begun.
MOMENTS = ("before", "torn", "after")
ONE, BOTH = "one", "both"
ORDERS = ("source-first", "target-first")

Kinds = dict[str, dict[str, list[str]]]


@dataclass(frozen=True)
class Case:
    """A record of one side (numbered from 1), when it is broken off there, and who is killed then.

    ONE: that side's program, and its guard lives; BOTH: both sides' programs and guards. `order` says who is to
    settle it first: p.haul --resolve at the source, or the target's service, started again.
    """

    mode: str
    side: str
    number: int
    kind: str
    moment: str
    killed: str
    order: str

    @property
    def point(self) -> str:
        """For at_point.py."""
        if self.moment == "torn":
            return f"torn={self.number}"
        return f"{self.moment}=phaul.journal:Journal._write#{self.number}"

    def __str__(self) -> str:
        words = (self.mode, self.side, f"{self.number:02}", self.kind, self.moment, self.killed, self.order)
        return "-".join(words)


def known() -> Kinds:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def know(mode: str, found: dict[str, list[str]]) -> None:
    FILE.write_text(json.dumps({**known(), mode: found}, indent=1) + "\n")


def cases(found: Kinds) -> Iterator[Case]:
    """Each record at each moment with that side killed, and once with both killed; the orders take turns."""
    orders, moments = itertools.cycle(ORDERS), itertools.cycle(MOMENTS)
    for mode, side in itertools.product(found, HOSTS):
        written = found[mode][side]
        first = 0 if mode == MODES[0] else written.index(MODES_DIFFER_FROM[side])
        for number, what in enumerate(written[first:], start=first + 1):
            for moment in MOMENTS:
                yield Case(mode, side, number, what, moment, ONE, next(orders))
            yield Case(mode, side, number, what, next(moments), BOTH, next(orders))
        next(orders)


def sample(every: Iterable[Case]) -> set[Case]:
    """One case for each sort of record on each side and in each mode, the moments and who is killed taking turns."""
    chosen: dict[tuple[str, str, str], Case] = {}
    groups = itertools.groupby(every, lambda case: (case.mode, case.side, case.number))
    turns = itertools.cycle(range(len(MOMENTS) + 1))
    for _, group in groups:
        found = list(group)
        key = (found[0].mode, found[0].side, found[0].kind.partition(".")[0])
        if key not in chosen:
            chosen[key] = found[next(turns)]
    return set(chosen.values())
