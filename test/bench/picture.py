"""Downtime over memory size as a drawing, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .cases import Case
from .results import Results

WIDTH, HEIGHT = 840, 430
LEFT, RIGHT, TOP, BOTTOM = 70, 330, 40, 55
SMALLEST_GAP = 15  # between two names at the right
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8a6d00", "#444444", "#7b3fbf", "#b00020", "#00796b")

Point = tuple[float, float]


class Axes:
    """Where a memory size in MiB and a downtime in seconds are in the drawing."""

    def __init__(self, points: list[Point]) -> None:
        sizes, times = zip(*points, strict=True)
        self.sizes = sorted(set(sizes))
        self.low = math.floor(math.log10(min(times)))
        self.high = max(self.low + 1, math.ceil(math.log10(max(times))))

    def x(self, mib: float) -> float:
        low, high = math.log2(self.sizes[0]), math.log2(self.sizes[-1])
        share = (math.log2(mib) - low) / (high - low) if high > low else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, seconds: float) -> float:
        share = (math.log10(seconds) - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def drawn(self) -> Iterator[str]:
        for power in range(self.low, self.high + 1):
            y = self.y(10.0**power)
            yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#ddd"/>'
            yield text(LEFT - 8, y + 4, f"{10.0**power:g} s", "end")
        for mib in self.sizes:
            x = self.x(mib)
            yield f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#eee"/>'
            yield text(x, HEIGHT - BOTTOM + 18, f"{mib // 1024} GiB" if mib >= 1024 else f"{mib} MiB", "middle")
        yield text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "memory of random bytes, idle", "middle")
        yield text(LEFT, TOP - 16, "downtime as the program in the container saw it", "start")


def svg(results: Results, cases: tuple[Case, ...]) -> str:
    """The drawing; "" where there is nothing to draw."""
    plain = [case for case in cases if not (case.hot_mib or case.files or case.volume_mib or case.link)]
    curves = {rival: curve(results, rival, plain) for rival in results.rivals()}
    curves = {rival: points for rival, points in curves.items() if points}
    if not curves:
        return ""
    axes = Axes([point for points in curves.values() for point in points])
    parts = [*axes.drawn(), *lines(results, axes, curves)]
    style = 'font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {style}>'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *parts, "</svg>", ""])


def curve(results: Results, rival: str, cases: list[Case]) -> list[Point]:
    found = [(case.mib, results.downtime(case.name, rival)) for case in cases]
    return sorted((mib, time) for mib, time in found if time)


def lines(results: Results, axes: Axes, curves: dict[str, list[Point]]) -> Iterator[str]:
    names = name_places({rival: axes.y(points[-1][1]) for rival, points in curves.items()})
    for colour, (rival, points) in zip(COLOURS * len(curves), curves.items(), strict=False):
        places = [(axes.x(mib), axes.y(time)) for mib, time in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dash = "" if rival.startswith("phaul") else ' stroke-dasharray="5 3"'
        width = 2.5 if rival.startswith("phaul") else 1.5
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}/>'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)
        yield text(WIDTH - RIGHT + 12, names[rival] + 4, results.words[rival], "start", colour)
        x, y = places[-1]
        end = f'x2="{WIDTH - RIGHT + 9}" y2="{names[rival]:.1f}"'
        yield f'<line x1="{x + 4:.1f}" y1="{y:.1f}" {end} stroke="{colour}" stroke-width="0.5"/>'


def name_places(wanted: dict[str, float]) -> dict[str, float]:
    """Heights for the names, near the wanted ones, none upon another."""
    placed: dict[str, float] = {}
    last = TOP - SMALLEST_GAP
    for rival in sorted(wanted, key=lambda rival: wanted[rival]):
        last = placed[rival] = max(wanted[rival], last + SMALLEST_GAP)
    over = max(0.0, last - (HEIGHT - BOTTOM))
    return {rival: height - over for rival, height in placed.items()}


def text(x: float, y: float, words: str, anchor: str, colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escaped(words)}</text>'


def escaped(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;")
