"""Which pages of a lazily dumped task are still to come: what CRIU's pagemap and mm images say.

Shapes are those of CRIU's images/pagemap.proto and mm.proto, read by pycriu.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from phaul.spans import Span
from phaul.uffd import PAGE

PRESENT, LAZY = 4, 2


def lazy_spans(images: Path, task: int) -> list[Span]:
    """In the order of addresses; none crosses the border of a mapping, since a fill may not either."""
    areas = [(int(vma["start"]), int(vma["end"])) for vma in _load(images / f"mm-{task}.img")[0]["vmas"]]
    found: list[Span] = []
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
            if found and found[-1][1] == start > areas[at][0]:
                found[-1] = (found[-1][0], stop, found[-1][2])
            else:
                found.append((start, stop, start))
            start = stop
    return found


def _load(path: Path) -> list[dict[str, Any]]:
    pycriu: Any = importlib.import_module("pycriu")
    with path.open("rb") as file:
        entries: list[dict[str, Any]] = pycriu.images.load(file)["entries"]
    return entries
