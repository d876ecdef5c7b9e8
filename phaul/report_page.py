"""A haul as one HTML page that needs nothing else: its timeline, with the freeze in the middle, and its figures."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from phaul.mstats import readable

WIDTH, LANE, TOP, LEFT = 1000, 56, 34, 90
# The downtime has the middle third of the picture, however short it is.
SHARES = (0.35, 0.65)
COLOURS = {"freeze": "#c2410c", "restore": "#b45309", "memory": "#a16207", "release": "#15803d", "undo": "#b91c1c"}
PLAIN = ("#1d4ed8", "#0369a1", "#4338ca", "#0f766e")
FROZEN = "#fde68a"
STYLE = """
:root { color-scheme: light; } body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem;
padding: 0 1rem; color: #1c1917; background: #fff } h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1.05rem;
margin: 2rem 0 .5rem } p.sub { color: #57534e; margin: .2rem 0 1.2rem } table { border-collapse: collapse }
td, th { text-align: left; padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid #e7e5e4; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } .figures { display: flex; flex-wrap: wrap;
gap: 2.5rem } .figures b { display: block; font-size: 1.5rem } .bad { color: #b91c1c } .bar { background: #1d4ed8;
height: .7rem; display: inline-block; border-radius: 2px } svg { width: 100%; height: auto } li { margin: .2rem 0 }
"""


@dataclass(frozen=True)
class Span:
    """A phase or a request; seconds since the haul began, bytes sent."""

    name: str
    since: float
    until: float
    sent: int


@dataclass(frozen=True)
class Report:
    """`here` are the source's phases, `there` what the target was asked; moments are seconds since the haul began."""

    head: dict[str, Any]
    began: float  # seconds since 1970
    seconds: float
    here: tuple[Span, ...]
    there: tuple[Span, ...]
    frozen: float | None
    released: float | None
    said: tuple[tuple[str, str], ...]  # kind and sentence
    facts: dict[str, Any]
    failed: bool


def page(report: Report) -> str:
    """The page's text."""
    subject, target = (str(report.head.get(key, "?")) for key in ("subject", "target"))
    name = escape(str(report.head.get("haul", "")))
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f"<title>P.Haul: {name}</title><style>{STYLE}</style></head><body>",
            f"<h1>{_outcome(report, target)}</h1>",
            f'<p class="sub">{escape(_subtitle(report, subject))}</p>',
            _figures(report),
            "<h2>When</h2>",
            _timeline(report),
            _phases(report),
            "<h2>What was carried</h2>",
            _carried(report),
            "<h2>What was chosen, and told</h2>",
            _told(report),
            "</body></html>\n",
        )
    )


def _outcome(report: Report, target: str) -> str:
    if report.failed:
        return f'<span class="bad">Not moved to {escape(target)}</span>'
    return f"Moved to {escape(target)}"


def _subtitle(report: Report, subject: str) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report.began))
    known = {key: report.head.get(key, "") for key in ("haul_type", "mode", "version", "haul")}
    return f"{subject} ({known['haul_type']}), {when}, mode {known['mode']}, P.Haul {known['version']}, {known['haul']}"


def _figures(report: Report) -> str:
    facts = report.facts
    figures = {
        "downtime": "-" if facts["downtime"] is None else f"{facts['downtime'] * 1000:.0f} ms",
        "in all": f"{report.seconds:.1f} s",
        "sent": readable(facts["sent"]),
        "needed the source after the release": "-" if facts["dependent"] is None else f"{facts['dependent']:.1f} s",
    }
    cells = "".join(f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in figures.items())
    return f'<div class="figures">{cells}</div>'


# The timeline


@dataclass(frozen=True)
class _Scale:
    """From moments to places; the downtime, where there is one, has the middle."""

    report: Report

    def __call__(self, moment: float) -> float:
        whole, frozen = max(self.report.seconds, 1e-6), self.report.frozen
        if frozen is None:
            return LEFT + (WIDTH - LEFT) * moment / whole
        thawed = self.report.released or whole
        knots = ((0.0, 0.0), (frozen, SHARES[0]), (thawed, SHARES[1]), (max(whole, thawed), 1.0))
        for (since, low), (until, high) in pairwise(knots):
            if moment <= until and until > since:
                return LEFT + (WIDTH - LEFT) * (low + (high - low) * max(0.0, moment - since) / (until - since))
        return WIDTH


def _timeline(report: Report) -> str:
    place = _Scale(report)
    height = TOP + 2 * LANE + 30
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="timeline of the haul">']
    if report.frozen is not None:
        parts.append(_downtime(report, place))
    for number, (host, spans) in enumerate((("source", report.here), ("target", report.there))):
        top = TOP + number * LANE
        parts.append(f'<text x="0" y="{top + 24}" font-size="15">{host}</text>')
        parts += [_box(span, place, top, index) for index, span in enumerate(spans)]
    parts += list(_ticks(report, place, height))
    return "".join([*parts, "</svg>"])


def _downtime(report: Report, place: _Scale) -> str:
    assert report.frozen is not None
    until = report.released or report.seconds
    left, right = place(report.frozen), place(until)
    words = f"frozen {(until - report.frozen) * 1000:.0f} ms"
    return (
        f'<rect id="downtime" x="{left:.1f}" y="0" width="{right - left:.1f}" height="{TOP + 2 * LANE}" '
        f'fill="{FROZEN}"/><text x="{(left + right) / 2:.1f}" y="20" font-size="15" text-anchor="middle">{words}</text>'
    )


def _box(span: Span, place: _Scale, top: int, index: int) -> str:
    left, right = place(span.since), place(span.until)
    width = max(1.5, right - left)
    colour = COLOURS.get(span.name, PLAIN[index % len(PLAIN)])
    title = escape(f"{span.name}: {span.until - span.since:.3f} s")
    room = width > 9 * len(span.name)
    label = f'<text x="{left + 5:.1f}" y="{top + 24}" font-size="13" fill="#fff">{escape(span.name)}</text>'
    return (
        f'<g><title>{title}</title><rect x="{left:.1f}" y="{top + 6}" width="{width:.1f}" height="{LANE - 24}" '
        f'rx="3" fill="{colour}"/>{label if room else ""}</g>'
    )


def _ticks(report: Report, place: _Scale, height: int) -> Iterator[str]:
    moments = [0.0, report.frozen, report.released, report.seconds]
    last = -1000.0
    for moment in (moment for moment in moments if moment is not None):
        at = min(place(moment), WIDTH - 30)
        if at - last > 60:
            yield f'<text x="{at:.1f}" y="{height - 8}" font-size="13" fill="#57534e">{moment:.2f} s</text>'
            last = at


# Figures


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], *, numbers: int) -> str:
    """The cells are HTML; the last `numbers` columns are figures."""
    names = list(head)
    first = len(names) - numbers

    def row(cells: Iterable[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=n' if at >= first else ''}>{cell}</{tag}>" for at, cell in enumerate(cells))

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return f"<table><tr>{row(names, 'th')}</tr>{body}</table>"


def _phases(report: Report) -> str:
    rows = [
        (escape(span.name), f"{span.since:.3f} s", f"{span.until - span.since:.3f} s", readable(span.sent))
        for span in report.here
    ]
    return _table(("phase", "began after", "took", "sent"), rows, numbers=3)


def _carried(report: Report) -> str:
    kinds = report.facts["by_kind"]
    most = max([1, *kinds.values()])
    rows = [
        (escape(kind), f'<span class="bar" style="width:{max(1, 300 * count // most)}px"></span>', readable(count))
        for kind, count in kinds.items()
        if count
    ]
    packed = report.facts["codec"]
    note = f"<p>{readable(report.facts['content'])} before compression ({escape(packed)}).</p>" if packed else ""
    return _table(("", "", "bytes on the wire"), rows, numbers=1) + note


def _told(report: Report) -> str:
    lines = [
        f"<li{' class=bad' if kind in ('error', 'warning') else ''}>{escape(sentence)}</li>"
        for kind, sentence in report.said
    ]
    notes = [f"<li>{escape(note)}</li>" for note in report.head.get("notes", [])]
    return f"<ul>{''.join(lines + notes)}</ul>"
