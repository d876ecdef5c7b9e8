"""Which pages of a lazily dumped task are still to come: what CRIU's pagemap and mm images say.

Shapes are those of CRIU's images/pagemap.proto and mm.proto, read by pycriu. The images came from a peer.
"""

from __future__ import annotations

import importlib
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phaul.errors import HaulFailed
from phaul.spans import Span
from phaul.uffd import PAGE

PRESENT, LAZY = 4, 2
# An entry of ten bytes becomes hundreds: those of 8 GiB of which every second page is to come.
MAX_BYTES, MAX_ENTRIES, FEWEST_BYTES = 64 << 20, 2 << 20, 4
MAX_ADDRESS = 1 << 63
COMMON_MAGIC = 0x54564319
_WORD = struct.Struct("=i")


@dataclass(frozen=True)
class Lazy:
    """`spans` in the order of addresses, none across the border of a mapping, since a fill may not be either.

    `firsts`: the addresses of the first lazy page of each mapping of several pages.
    """

    spans: list[Span]
    firsts: list[int]


def lazy_pages(images: Path, task: int) -> Lazy:
    """Raises OSError, HaulFailed (images) for images that no CRIU writes."""
    try:
        areas = _areas(_load(images / f"mm-{task}.img", "MM"))
        runs = list(_runs(_load(images / f"pagemap-{task}.img", "PAGEMAP")))
    except OSError:
        raise
    except Exception as error:  # pycriu and protobuf have many
        raise _none_of(task, repr(error)) from None
    found: list[Span] = []
    firsts: dict[int, int] = {}
    at = last = 0
    for start, end in runs:
        if not last <= start < end < MAX_ADDRESS:
            raise _none_of(task, "pages come twice")
        last = end
        reached = start
        while reached < end:
            while at < len(areas) and areas[at][1] <= reached:
                at += 1
            if at == len(areas) or reached < areas[at][0]:
                raise _none_of(task, "pages are in no mapping")
            stop = min(end, areas[at][1])
            if areas[at][1] - areas[at][0] > PAGE:
                firsts.setdefault(at, reached)
            if found and found[-1][1] == reached > areas[at][0]:
                found[-1] = (found[-1][0], stop, found[-1][2])
            else:
                found.append((reached, stop, reached))
            reached = stop
    return Lazy(found, list(firsts.values()))


def _none_of(task: int, why: str) -> HaulFailed:
    return HaulFailed(f"CRIU's images of process {task} are none that it writes ({why[:100]}).", code="images")


def _areas(entries: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """The mappings, by their bounds."""
    return [(int(vma["start"]), int(vma["end"])) for vma in entries[0]["vmas"]]


def _runs(entries: list[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """The runs of lazy pages."""
    for entry in entries[1:]:
        if entry["flags"] & (LAZY | PRESENT) == LAZY:
            start = int(entry["vaddr"])
            yield start, start + int(entry.get("nr_pages") or entry["compat_nr_pages"]) * PAGE


def _load(path: Path, magic: str) -> list[dict[str, Any]]:
    """Raises what pycriu raises, which may be anything, and ValueError for what is another image, or too long."""
    pycriu: Any = importlib.import_module("pycriu")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError("it is too long")
    data = path.read_bytes()
    _bound(data)
    image = pycriu.images.load(io.BytesIO(data))
    if image["magic"] != magic:
        raise ValueError(f"it is of the kind {image['magic']}")
    entries: list[dict[str, Any]] = image["entries"]
    return entries


def _bound(data: bytes) -> None:
    """Look at the entries' lengths before anything is made of them. Raises ValueError, struct.error."""
    if _WORD.unpack_from(data)[0] != COMMON_MAGIC:
        raise ValueError("it is no image")
    at, count = 2 * _WORD.size, 0
    while at < len(data):
        (length,) = _WORD.unpack_from(data, at)
        count += 1
        at += _WORD.size + length
        if (length < FEWEST_BYTES and count > 1) or length < 0 or at > len(data) or count > MAX_ENTRIES:
            raise ValueError("it has entries of a size, or a number, that cannot be")
