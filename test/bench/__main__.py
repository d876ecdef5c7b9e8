"""test/bench/run: hauls measured, P.Haul's and others', side by side, round by round."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lab import LabError
from lab.ending import end_on

from . import cases, machine, picture, table
from .bed import Bed
from .cases import Case
from .measure import Round
from .results import Results
from .rival_criu import Criu
from .rival_docker import Docker
from .rival_phaul import PHaul, modes
from .rival_podman import Podman
from .rival_runc import RuncLazy, Script
from .rivals import Rival

OTHERS: dict[str, Callable[[], Rival]] = {
    "criu": Criu,
    "runc-lazy": RuncLazy,
    "script": Script,
    "docker": Docker,
    "podman": Podman,
}
OUT = Path(__file__).parent / "results"
MINUTES = 25
GIB_MIB, QUICK_MIB = 1024, 64


def parser() -> argparse.ArgumentParser:
    every = [case.name for case in cases.FULL]
    top = argparse.ArgumentParser(prog="test/bench/run", description=__doc__)
    top.add_argument("--quick", action="store_true", help="small sizes, one round, without Podman: does it work?")
    top.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        default=[],
        help=f"only these cases ({', '.join(every)}) and these ways (phaul, phaul-MODE, {', '.join(OTHERS)})",
    )
    top.add_argument("--rounds", type=int, metavar="N", help="how often each is measured (default: 5; quick: 1)")
    top.add_argument("--minutes", type=float, default=MINUTES, help="no haul begins later (default: %(default)s)")
    top.add_argument("--out", type=Path, metavar="DIR", help="where result.md, result.json and downtime.svg go")
    return top


def main(words: Sequence[str]) -> int:
    options = parser().parse_args(words)
    end_on(signal.SIGTERM, signal.SIGHUP)
    chosen = [case for case in (cases.QUICK if options.quick else cases.FULL) if wanted(case.name, options.only, CASES)]
    rounds = options.rounds or (1 if options.quick else 5)
    with_podman = wanted("podman", options.only, WAYS) and (not options.quick or "podman" in options.only)
    try:
        with Bed.up(podman=with_podman) as bed:
            results = measured(bed, chosen, options, rounds=rounds, with_podman=with_podman)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    out = options.out or (Path("/tmp/phaul-bench") if options.quick or options.only else OUT)
    written(results, tuple(chosen), out)
    return 0


CASES = frozenset(case.name for case in (*cases.FULL, *cases.QUICK))
WAYS = frozenset(OTHERS)


def wanted(name: str, only: Sequence[str], kind: frozenset[str]) -> bool:
    """Whether it is among the chosen ones; all of a kind are where none of that kind is named."""
    ways = kind is WAYS
    named = [one for one in only if one in kind or (ways and one not in CASES)]
    return not named or any(name == one or name.startswith(f"{one}-") for one in named)


def measured(
    bed: Bed, chosen: Sequence[Case], options: argparse.Namespace, *, rounds: int, with_podman: bool
) -> Results:
    """All rounds."""
    own = [PHaul(mode) for mode in modes(bed.source)]
    others = [make() for name, make in OTHERS.items() if name != "podman" or with_podman]
    rivals: list[Rival] = [rival for rival in (*own, *others) if wanted(rival.name, options.only, WAYS)]
    work = [(case, rival) for case in chosen for rival in rivals if case.moved_by(rival.name)]
    words = {case.name: case.words for case in chosen} | {rival.name: rival.words for rival in rivals}
    results = Results(machine=machine.describe(bed.source), rounds=0, words=words)
    until = time.monotonic() + options.minutes * 60
    going = Round(bed, results, lambda line: print(line, flush=True))
    volume = next((case for case in chosen if case.volume_mib), None)
    if volume:
        bed.make_volume(volume)
    for number in range(1, rounds + 1):
        if not going.run(number, work, channel_mib=QUICK_MIB if options.quick else GIB_MIB, until=until):
            print(f"Time is over in round {number}.")
            break
        results.rounds = number
    return results


def written(results: Results, chosen: tuple[Case, ...], out: Path) -> None:
    """The files, and the targets on the terminal."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.md").write_text(table.markdown(results))
    results.save(out / "result.json")
    drawing = picture.svg(results, chosen)
    if drawing:
        (out / "downtime.svg").write_text(drawing)
    print(f"\n{table.target_table(results)}\nWritten to {out}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
