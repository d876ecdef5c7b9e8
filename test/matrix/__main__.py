"""test/matrix/run: a haul is broken in every phase, in every way, in every mode; one whole copy must run each time."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lab import LabError
from lab.ending import end_on

from . import cells, results, workers
from .cells import Cell
from .injections import FAULTS
from .phases import MODES, PHASES
from .results import Results

OUT = Path(__file__).parent / "results"
README = Path(__file__).resolve().parents[2] / "README.md"
LINES = "cells.jsonl"


def parser() -> argparse.ArgumentParser:
    phases, faults, modes = (", ".join(one.name for one in kind) for kind in (PHASES, FAULTS, MODES))
    top = argparse.ArgumentParser(prog="test/matrix/run", description=__doc__)
    top.add_argument("--sample", type=int, metavar="N", help="only so many cells (default: all)")
    top.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        default=[],
        choices=[one.name for kind in (PHASES, FAULTS, MODES) for one in kind],
        help=f"only these phases ({phases}), faults ({faults}) and modes ({modes})",
    )
    top.add_argument("--seed", type=int, default=1, metavar="N", help="another order, another sample (default: 1)")
    top.add_argument("--jobs", type=int, default=1, metavar="N", help="so many at the same time (default: 1)")
    top.add_argument("--resume", action="store_true", help="leave out the cells that held already in a run before")
    top.add_argument("--list", action="store_true", help="only name the cells")
    top.add_argument("--readme", action="store_true", help="put the table into README.md")
    top.add_argument("--out", type=Path, metavar="DIR", help="where result.md, result.json and the rest go")
    return top


def main(words: Sequence[str]) -> int:
    options = parser().parse_args(words)
    end_on(signal.SIGTERM, signal.SIGHUP)
    chosen = cells.shuffled(cells.chosen(cells.every(), options.only), options.seed)[: options.sample]
    if options.list:
        print("\n".join(sorted(cell.name for cell in chosen)))
        return 0
    out = options.out or (Path("/tmp/phaul-matrix") if options.only or options.sample else OUT)
    out.mkdir(parents=True, exist_ok=True)
    try:
        found = tried(chosen, out, jobs=options.jobs, resume=options.resume)
    except LabError as error:
        print(f"matrix: {error}", file=sys.stderr)
        return 1
    if options.readme:
        README.write_text(results.into(README.read_text(), found))
    print(f"{found.closing}. Written to {out}")
    return 0 if found.held == len(found.records) else 1


def tried(chosen: Sequence[Cell], out: Path, *, jobs: int, resume: bool) -> Results:
    """Try them, and write what there is after each: so nothing is lost of a run that is interrupted."""
    lines = out / LINES
    if not resume:
        lines.unlink(missing_ok=True)
    before = results.read(lines)
    machine = Results.load(out / "result.json").machine if before and (out / "result.json").exists() else {}
    todo = [cell for cell in chosen if not (cell.name in before and before[cell.name].held)]
    found = written(out, machine)
    for record, seen in workers.tried(todo, jobs=jobs, out=out):
        machine = machine or seen
        results.append(lines, record)
        found = written(out, machine)
        print(f"{len(found.records)}/{len(chosen)} {record.line}", flush=True)
    return found


def written(out: Path, machine: dict[str, str]) -> Results:
    """The files, of all cells that are known."""
    known = results.read(out / LINES)
    records = tuple(known[cell.name] for cell in cells.every() if cell.name in known)
    found = Results(machine, len(cells.every()), cells.left_out(), records)
    found.save(out / "result.json")
    (out / "result.md").write_text(results.markdown(found))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
