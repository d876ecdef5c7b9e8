"""test/load/run: many hauls at once, many in a row, and what an idle service costs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import machine
from lab import Lab, LabError
from lab.ending import end_on

from . import bed, crowd, idle, report, rounds

OUT = Path(__file__).parent / "results"
EVERY, SINCE = 20, 40
PARTS = ("crowd", "rounds", "idle")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="test/load/run", description=__doc__)
    top.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    top.add_argument("--at-once", type=int, default=20, metavar="N", help="containers hauled at once (default: 20)")
    top.add_argument("--others", type=int, default=20, metavar="N", help="containers that stay on each host")
    top.add_argument("--hauls", type=int, default=200, metavar="N", help="hauls in a row (default: 200)")
    top.add_argument("--idle", type=float, default=60, metavar="S", help="seconds of an idle service (default: 60)")
    top.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="where result.md and result.json go")
    return top


def main(words: Sequence[str]) -> int:
    options = parser().parse_args(words)
    end_on(signal.SIGTERM, signal.SIGHUP)
    try:
        with Lab.up(f"load-{os.getpid()}") as lab, bed.made_of(lab) as made:
            found = measured(made, options)
    except LabError as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    report.save(found, options.out)
    print(f"\n{report.markdown(found)}\nWritten to {options.out}")
    return 1 if found.rounds and found.rounds.grows(found.since) else 0


def measured(made: bed.Bed, options: argparse.Namespace) -> report.Load:
    """The idle service first: nothing was asked of it yet. What is known is saved after each part."""
    only, every = options.only, min(EVERY, options.hauls // 3)
    found = report.Load(
        machine.describe(made.a), crowd=None, rounds=None, idle=None, since=min(SINCE, options.hauls // 2)
    )
    if "idle" in only:
        found = replace(found, idle=idle.watch(made, options.idle))
        report.save(found, options.out)
    if "rounds" in only:
        found = replace(found, rounds=rounds.run(made, options.hauls, every, tell))
        report.save(found, options.out)
    if "crowd" in only:
        found = replace(found, crowd=crowd.move(made, options.at_once, options.others))
    return found


def tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
