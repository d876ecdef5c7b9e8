"""What `p.haul check` prints for people: lines of at most `width` columns, each with how it looks on a terminal."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from phaul.check import BLOCKED, MOVABLE, WARNINGS, Report
from phaul.check_document import host_facts_of
from phaul.errors import Finding
from phaul.mstats import readable
from phaul.streams import harmless, printable

PLAIN, HEAD, BAD, ODD, GOOD = "", "bold", "bold red", "yellow", "bold green"
STYLES = {MOVABLE: GOOD, WARNINGS: ODD, BLOCKED: BAD}
LABEL = 18


@dataclass(frozen=True)
class Line:
    text: str
    style: str = PLAIN


def lines(report: Report, width: int) -> Iterator[Line]:
    """All of it, the verdict last."""
    yield from _hosts(report, width)
    yield from _moved(report, width)
    for title, style, blocks in (("Warnings", ODD, False), ("Blockers", BAD, True)):
        yield from _findings([one for one in report.findings if one.blocks is blocks], title, style, width)
    yield Line("")
    yield Line(_verdict(report), STYLES[report.verdict])


def _hosts(report: Report, width: int) -> Iterator[Line]:
    """Side by side what each host has; only what was asked of this one, where the other was not asked."""
    here, there = report.survey.here, report.survey.there
    one, two = host_facts_of(here), host_facts_of(there) if there else {}
    half = (width - LABEL) // 2 if there else width - LABEL
    heads = (f"here: {here.facts.hostname}", f"there: {printable(there.facts.hostname)}" if there else "")
    yield from _columns("", heads, half, HEAD)
    for name in dict.fromkeys((*one, *two)):
        values = (one.get(name, "-"), two.get(name, "-") if there else "")
        yield from _columns(name, values, half, ODD if there and values[0] != values[1] else PLAIN)


def _columns(name: str, values: tuple[str, str], half: int, style: str) -> Iterator[Line]:
    cells = [textwrap.wrap(value, half - 2) for value in values]
    for row in itertools.zip_longest([name], *cells, fillvalue=""):
        label, one, two = (*row, "")[:3]
        yield Line(f"{label:<{LABEL}}{one:<{half}}{two}".rstrip(), style)


def _moved(report: Report, width: int) -> Iterator[Line]:
    if not (report.overview and report.outlook):
        return
    yield from _title("Would be copied")
    for part in report.overview.parts:
        said = readable(part.size) if part.size or part.kind != "image" else "there already"
        yield from _wrapped(part.kind, f"{said:<14}{part.name if part.name != part.kind else ''}", width)
    for connection in report.overview.connections:
        yield from _wrapped("connection", f"{connection.fate:<14}{connection.ends}", width)
    total = report.outlook.total(report.overview.parts)
    yield from _title("Would take")
    yield from _wrapped("link", f"{readable(report.outlook.link)}/s", width)
    yield from _wrapped("in all", f"about {total:.1f} s", width)
    yield from _wrapped("downtime", report.outlook.expected.words.removeprefix("Expected downtime "), width)


def _title(text: str) -> Iterator[Line]:
    yield Line("")
    yield Line(text, HEAD)


def _wrapped(name: str, text: str, width: int, style: str = PLAIN) -> Iterator[Line]:
    for label, part in itertools.zip_longest([name], _fold(text, width - LABEL), fillvalue=""):
        yield Line(f"{label:<{LABEL}}{part}".rstrip(), style)


def _fold(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, drop_whitespace=True, break_on_hyphens=False) or [""]


def _findings(found: list[Finding], title: str, style: str, width: int) -> Iterator[Line]:
    if found:
        yield from _title(title)
    for finding in found:
        for part in _fold(f"{finding.reason.rstrip('.')}. [{finding.code}]", width - 2):
            yield Line(f"  {part}", style)
        for part in _fold(f"{finding.remedy[:1].upper()}{finding.remedy[1:].rstrip('.')}.", width - 6):
            yield Line(f"      {part}")


def _verdict(report: Report) -> str:
    what = f"{report.subject} can be moved to {report.target}"
    count = len(report.findings) - len(report.survey.blockers)
    if report.verdict == BLOCKED:
        return f"{report.subject} cannot be moved to {report.target}. Nothing was changed on either host."
    return f"{what}, with {count} warning{'s' * (count != 1)}." if count else f"{what}."


def show(report: Report, stream: TextIO, width: int) -> None:
    """Print it; with colours on a terminal."""
    if not stream.isatty():
        print("\n".join(harmless(line.text) for line in lines(report, width)), file=stream)
        return
    # Imported where there is a terminal alone: it takes a good part of p.haul's start.
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False, width=width)
    for line in lines(report, width):
        console.print(Text(harmless(line.text), style=line.style))
