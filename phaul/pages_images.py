"""Which pages of a lazily dumped task are still to come: what CRIU's pagemap and mm images say.

Shapes are those of CRIU's images/pagemap.proto and mm.proto, read by pycriu.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phaul.spans import Span
from phaul.uffd import PAGE

PRESENT, LAZY = 4, 2


@dataclass(frozen=True)
class Lazy:
    """`spans` in the order of addresses, none across the border of a mapping, since a fill may not be either.

    `firsts`: the addresses of the first lazy page of each mapping of several pages.
    """

    spans: list[Span]
    firsts: list[int]


def lazy_pages(images: Path, task: int) -> Lazy:
    """Raises OSError."""
    areas = [(int(vma["start"]), int(vma["end"])) for vma in _load(images / f"mm-{task}.img")[0]["vmas"]]
    found: list[Span] = []
    firsts: dict[int, int] = {}
    at = 0
    for entry in _load(images / f"pagemap-{task}.img")[1:]:
        if entry["flags"] & (LAZY | PRESENT) != LAZY:
            continue
        start = int(entry["vaddr"])
        end = start + int(entry.get("nr_pages") or entry["compat_nr_pages"]) * PAGE
        while start < end:
            while areas[at][1] <= start:
                at += 1
            stop = min(end, areas[at][1])
            if areas[at][1] - areas[at][0] > PAGE:
                firsts.setdefault(at, start)
            if found and found[-1][1] == start > areas[at][0]:
                found[-1] = (found[-1][0], stop, found[-1][2])
            else:
                found.append((start, stop, start))
            start = stop
    return Lazy(found, list(firsts.values()))


def _load(path: Path) -> list[dict[str, Any]]:
    pycriu: Any = importlib.import_module("pycriu")
    with path.open("rb") as file:
        entries: list[dict[str, Any]] = pycriu.images.load(file)["entries"]
    return entries
