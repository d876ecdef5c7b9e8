"""test/fuzz/run: hostile bytes for every parser that sees bytes of a peer, a container or a damaged disk."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from . import campaign
from .campaign import Result
from .table import Target
from .targets import TABLE

OUT = Path(__file__).parent / "results"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="test/fuzz/run", description=__doc__)
    top.add_argument("targets", nargs="*", metavar="TARGET", help=f"only these of: {', '.join(TABLE)}")
    top.add_argument("--executions", type=int, default=1_000_000, metavar="N", help="of each (default: %(default)s)")
    top.add_argument("--minutes", type=float, default=120, metavar="N", help="of each, at most (default: %(default)s)")
    top.add_argument("--jobs", type=int, default=2, metavar="N", help="targets at a time (default: %(default)s)")
    top.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="where result.json and result.md go")
    return top


def main(words: Sequence[str]) -> int:
    options = parser().parse_args(words)
    unknown = [name for name in options.targets if name not in TABLE]
    if unknown or not find_spec("atheris"):
        said = f"There is no target {unknown[0]}." if unknown else "atheris is not there for this Python."
        print(said, file=sys.stderr)
        return 2
    chosen = [TABLE[name] for name in options.targets] or list(TABLE.values())
    options.out.mkdir(parents=True, exist_ok=True)
    results = _former(options.out)
    failed = 0
    for result in _results(chosen, options):
        results[result.target] = result
        failed += bool(result.crash)
        _write(options.out, results)
    skipped = [target for target in chosen if target.missing]
    for target in skipped:
        print(f"{target.name}: skipped: {target.missing}")
    more = f", {len(skipped)} skipped" if skipped else ""
    print(f"{len(chosen) - failed - len(skipped)} passed, {failed} failed{more}")
    return 1 if failed else 0


def _results(chosen: list[Target], options: argparse.Namespace) -> Iterator[Result]:
    able = [target for target in chosen if not target.missing]
    with ThreadPoolExecutor(options.jobs) as pool:

        def run(target: Target) -> Result:
            return campaign.run(target, options.executions, options.out, minutes=options.minutes)

        for result in pool.map(run, able):
            print(_line(result), flush=True)
            yield result


def _line(result: Result) -> str:
    end = f"CRASH: {result.crash}" if result.crash else "0 crashes"
    return f"{result.target:<14} {result.executions:>9} executions {result.edges:>5} edges {result.seconds:>7} s  {end}"


def _former(out: Path) -> dict[str, Result]:
    """Of targets that are not run this time."""
    path = out / "result.json"
    found = json.loads(path.read_text())["targets"] if path.exists() else []
    return {one["target"]: Result(**one) for one in found if one["target"] in TABLE}


def _write(out: Path, results: dict[str, Result]) -> None:
    ordered = [results[name] for name in TABLE if name in results]
    document = {"python": platform.python_version(), "targets": [asdict(result) for result in ordered]}
    (out / "result.json").write_text(json.dumps(document, indent=1) + "\n")
    (out / "result.md").write_text("\n".join(_table(ordered)) + "\n")


def _table(results: list[Result]) -> Iterator[str]:
    total, crashes = sum(result.executions for result in results), sum(bool(result.crash) for result in results)
    yield f"{len(results)} targets, {total:,} executions, {crashes} crashes (Python {platform.python_version()}):"
    yield ""
    yield "| target | executions | edges | inputs kept | crashes |"
    yield "| --- | ---: | ---: | ---: | --- |"
    for result in results:
        crash = result.crash.replace("|", "/") or "0"
        yield f"| {result.target} | {result.executions:,} | {result.edges} | {result.kept} | {crash} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
