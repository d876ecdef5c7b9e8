"""The pages of tasks that CRIU has dumped without seeing any: what it would have written, into its images.

Images are as CRIU's images/pagemap.proto, mm.proto and vma.proto say; what is in them, as its criu/mem.c has it: of the
vdso, and of rings for asynchronous input and output, every page; of other private memory the pages that are there and
no file's. Those of anonymous memory come later (lazy) unless it is locked, or in pages of hugetlb. CRIU means to write
at once those that a stack pointer points to as well, but does not (4.2), and they need not be.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

from phaul.dirty import PAGE, Range
from phaul.dump_unseen import Looked
from phaul.errors import HaulFailed
from phaul.pages_images import LAZY, PRESENT

# Of mappings, as criu/include/image.h numbers them.
REGULAR, VSYSCALL, VDSO, VVAR, RING, GUARD, PROBES = (1 << bit for bit in (0, 2, 3, 12, 13, 16, 17))
PRIVATE = 1 << 6 | 1 << 9
MAP_PRIVATE, MAP_DROPPABLE, MAP_ANONYMOUS, MAP_LOCKED, MAP_HUGETLB = 0x2, 0x8, 0x20, 0x2000, 0x40000
_SIZE, _MAGICS, _BLOCK = struct.Struct("=i"), 8, 1 << 20


@dataclass(frozen=True)
class Run:
    """Pages of a task, to come later (`lazy`), or from a place in a file."""

    start: int
    end: int
    lazy: bool
    file: int = -1
    place: int = 0


@dataclass(frozen=True)
class Area:
    """A mapping: its pages are those that CRIU has written (`whole`), or those that are there, which may be `lazy`."""

    start: int
    end: int
    whole: bool
    lazy: bool


def add(images: Path, looked: Sequence[Looked]) -> None:
    """To the images of a dump, once CRIU is through with the tasks. Raises HaulFailed (pages, dump)."""
    try:
        for one in looked:
            # There is none of a task that has ended.
            if (images / f"mm-{one.inner}.img").exists():
                _add(images, one)
    except OSError as error:
        raise HaulFailed(f"The images of the dump cannot be completed: {error.strerror}.", code="dump") from None


def _add(images: Path, looked: Looked) -> None:
    kinds: Any = importlib.import_module("pycriu.images.pb")
    areas = _mappings(images / f"mm-{looked.inner}.img", kinds, looked.memory.guards)
    table = images / f"pagemap-{looked.inner}.img"
    magics, (head, *entries) = _parts(table.read_bytes())
    pages = images / f"pages-{kinds.pagemap_head.FromString(head).pages_id}.img"
    memory = Path(f"/proc/{looked.pid}/mem")
    with pages.open("rb", buffering=0) as written, memory.open("rb", buffering=0) as task, _anew(pages) as out:
        runs = list(_runs(areas, looked.memory.pages, task.fileno(), _written(entries, kinds, written.fileno())))
        for run in runs:
            if not run.lazy:
                _copy(run, out)
    table.write_bytes(magics + _joined([head, *_entries(runs, kinds)]))


def _mappings(path: Path, kinds: Any, guards: Sequence[Range]) -> list[Area]:
    """Of an image; the guard regions in it become the task's."""
    magics, (data,) = _parts(path.read_bytes())
    image = kinds.mm_entry.FromString(data)
    for index in reversed(range(len(image.vmas))):
        if image.vmas[index].status & GUARD:
            del image.vmas[index]
    areas = [_area(vma) for vma in image.vmas if vma.status & (VDSO | RING) or _is_private(vma)]
    rest = {"pgoff": 0, "shmid": 0, "prot": 0, "flags": 0, "status": GUARD, "fd": -1}
    image.vmas.extend(kinds.vma_entry(start=start, end=end, **rest) for start, end in guards)
    path.write_bytes(magics + _joined([image.SerializeToString()]))
    return areas


def _is_private(vma: Any) -> bool:
    """And to be kept: the kernel may drop what is droppable, as it holds what must not be stored anywhere."""
    other = vma.status & (VVAR | VSYSCALL | PROBES) or vma.flags & MAP_DROPPABLE
    return bool(vma.status & REGULAR and vma.status & PRIVATE and not other)


def _area(vma: Any) -> Area:
    lazy = vma.flags & MAP_ANONYMOUS and vma.flags & MAP_PRIVATE and not vma.flags & (MAP_LOCKED | MAP_HUGETLB)
    return Area(int(vma.start), int(vma.end), bool(vma.status & (VDSO | RING)), bool(lazy))


def _written(entries: list[bytes], kinds: Any, file: int) -> list[Run]:
    """The pages that CRIU has written to the file."""
    found, place = list[Run](), 0
    for entry in map(kinds.pagemap_entry.FromString, entries):
        if entry.flags & PRESENT:
            size = int(entry.nr_pages or entry.compat_nr_pages) * PAGE
            found.append(Run(entry.vaddr, entry.vaddr + size, lazy=False, file=file, place=place))
            place += size
    return found


def _runs(areas: list[Area], pages: list[Range], memory: int, written: list[Run]) -> Iterator[Run]:
    for area in areas:
        if area.whole:
            yield from filter(None, (_part(run, area) for run in written))
            continue
        first = bisect_right(pages, area.start, key=itemgetter(1))
        for number in range(first, bisect_left(pages, area.end, lo=first, key=itemgetter(0))):
            low, high = max(pages[number][0], area.start), min(pages[number][1], area.end)
            yield Run(low, high, lazy=area.lazy, file=memory, place=low)


def _part(run: Run, area: Area) -> Run | None:
    """What is in the area."""
    start, end = max(run.start, area.start), min(run.end, area.end)
    return Run(start, end, lazy=False, file=run.file, place=run.place + start - run.start) if start < end else None


def _copy(run: Run, out: BinaryIO) -> None:
    place, end = run.place, run.place + run.end - run.start
    while place < end:
        data = os.pread(run.file, min(_BLOCK, end - place), place)
        if not data:
            raise HaulFailed(f"Memory of a frozen task at {place:#x} cannot be read.", code="pages")
        out.write(data)
        place += len(data)


def _entries(runs: Sequence[Run], kinds: Any) -> list[bytes]:
    """Messages pagemap_entry; the number of pages is their second field, whose name CRIU has changed."""
    entry, count = kinds.pagemap_entry, kinds.pagemap_entry.DESCRIPTOR.fields_by_number[2].name
    return [
        entry(
            vaddr=run.start, flags=LAZY if run.lazy else PRESENT, **{count: (run.end - run.start) // PAGE}
        ).SerializeToString()
        for run in runs
    ]


def _parts(data: bytes) -> tuple[bytes, list[bytes]]:
    """An image's magic numbers, and its messages."""
    found, at = list[bytes](), _MAGICS
    while at < len(data):
        (size,) = _SIZE.unpack_from(data, at)
        found.append(data[at + _SIZE.size : at + _SIZE.size + size])
        at += _SIZE.size + size
    return data[:_MAGICS], found


def _joined(messages: list[bytes]) -> bytes:
    return b"".join(part for message in messages for part in (_SIZE.pack(len(message)), message))


@contextlib.contextmanager
def _anew(path: Path) -> Iterator[BinaryIO]:
    """A file in the place of that one, as the block ends."""
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        yield file
    new.replace(path)
