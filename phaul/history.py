"""p.haul history: the hauls of this host that are over, from the journals that are kept (journal.KEEP of them)."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from phaul import display_json, journal, resolve
from phaul.journal import SOURCE, TARGET, Journal
from phaul.mstats import readable
from phaul.streams import printable

DIRECTIONS = {SOURCE: "to", TARGET: "from"}
# By side and state. At the source it says more of what was undone, if its p.haul lived to note it.
OUTCOMES = {
    (SOURCE, journal.DONE): "moved",
    (SOURCE, journal.UNDONE): "given-up",
    (TARGET, journal.DONE): "arrived",
    (TARGET, journal.UNDONE): "given-up",
    (TARGET, journal.LOST): "lost",
}
HEAD = ("when", "what", "where", "outcome", "downtime", "total", "sent")
RIGHT = HEAD.index("downtime")


def history(options: argparse.Namespace) -> int:
    """Tell of those of the named container, or of all; the newest first, `number` at most."""
    name = options.container
    rows = [_facts(record) for record in _past() if not name or resolve.means(record, name)][: options.number]
    if options.json:
        for row in rows:
            display_json.write(sys.stdout, "history", **row)
    elif rows:
        print("\n".join(_table([HEAD, *map(_row, rows)])))
    else:
        print("No haul is on record on this host." if not name else f"No haul of {name} is on record on this host.")
    return 0


def _past() -> list[Journal]:
    """The journals of hauls that are over."""
    found = []
    for side in (SOURCE, TARGET):
        for path in journal.all_of(side):
            with contextlib.suppress(FileNotFoundError):  # another process prunes them
                record = journal.read(path)
                if record.head and record.settled:
                    found.append(record)
    return sorted(found, key=lambda record: -float(record.head["begun"]))


def whose(record: Journal) -> dict[str, Any]:
    """What every object says of a haul."""
    head = record.head
    return {
        "haul": record.haul,
        "haul_type": head["type"],
        "subject": record.subject,
        "direction": DIRECTIONS[record.side],
        "peer": head["peer"],
        "begun": head["begun"],
    }


def _facts(record: Journal) -> dict[str, Any]:
    end = dict(record.head.get("end", {}))
    return {**whose(record), "ended": end.pop("at", None), "outcome": _outcome(record, end), **end}


def _outcome(record: Journal, end: dict[str, Any]) -> str:
    if record.side == SOURCE and record.state == journal.UNDONE and "code" in end:
        return "cancelled" if end["code"] == "cancelled" else "failed"
    return OUTCOMES[record.side, record.state]


def _row(facts: dict[str, Any]) -> tuple[str, ...]:
    why = f" ({facts['code']})" if facts["outcome"] == "failed" else ""
    downtime, total, sent = (facts.get(key) for key in ("downtime", "total", "sent"))
    return (
        moment(facts["begun"]),
        printable(str(facts["subject"])),
        printable(f"{facts['direction']} {facts['peer']}"),
        facts["outcome"] + why,
        "-" if downtime is None else f"{downtime * 1000:.0f} ms",
        "-" if total is None else f"{total:.1f} s",
        "-" if sent is None else readable(sent),
    )


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            word.rjust(width) if index >= RIGHT else word.ljust(width)
            for index, (word, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def moment(seconds: float) -> str:
    """Seconds since 1970 as a local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
