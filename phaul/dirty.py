"""Which pages of a running task have changed: the kernel's soft-dirty tracking, asked with PAGEMAP_SCAN.

Documentation/admin-guide/mm/soft-dirty.rst and pagemap.rst; numbers are those of linux/fs.h. To have
it one needs CONFIG_MEM_SOFT_DIRTY and Linux 6.7. Which pages there are at all every kernel tells.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from phaul import procfs
from phaul.errors import HaulFailed

PAGE = 4096
PAGEMAP_SCAN = 0xC0606610
FILE, PRESENT, SWAPPED, PFNZERO, SOFT_DIRTY, GUARD = 4, 8, 16, 32, 128, 256
MADV_GUARD_INSTALL = 102
_REGIONS = 512
_LISTED_PAGES, _ENTRY = 1 << 14, 8
_KERNEL = 1 << 63  # half of the addresses are its own
_U64 = ctypes.c_uint64

Range = tuple[int, int]
_Found = tuple[int, int, int]


@dataclass(frozen=True)
class Memory:
    """Of a task, as ranges (start, end) in the order of addresses: pages that are there and no file's; guard regions
    (madvise(2), MADV_GUARD_INSTALL).
    """

    pages: list[Range]
    guards: list[Range]


class _Region(ctypes.Structure):
    _fields_ = (("start", _U64), ("end", _U64), ("categories", _U64))


class _Scan(ctypes.Structure):
    _fields_ = tuple(
        (name, _U64)
        for name in (
            *("size", "flags", "start", "end", "walk_end", "vec", "vec_len", "max_pages"),
            *("category_inverted", "category_mask", "category_anyof_mask", "return_mask"),
        )
    )


_LIBC = ctypes.CDLL(None, use_errno=True)


def possible() -> bool:
    """Whether this host's kernel can tell: what was just written to must come out as dirty, and clean after that."""
    with contextlib.suppress(OSError, HaulFailed):
        page = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        page[0] = 1
        forget(os.getpid())
        before = list(_scan(os.getpid(), address, address + PAGE, must=SOFT_DIRTY))
        page[0] = 2
        return not before and bool(list(_scan(os.getpid(), address, address + PAGE, must=SOFT_DIRTY)))
    return False


def forget(pid: int) -> None:
    """What the task's pages are now is clean. Raises OSError."""
    (Path("/proc") / str(pid) / "clear_refs").write_text("4")


def memory(pid: int) -> Memory:
    """Raises HaulFailed (dirty) where the kernel does not tell; a task that is gone has none."""
    pages, guards = list[Range](), list[Range]()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        areas = [(start, end) for start, end, _, _ in _areas(pid) if end < _KERNEL]
        lowest, highest = (areas[0][0], areas[-1][1]) if areas else (0, 0)
        for start, end, categories in _scan(pid, lowest, highest, tell=PRESENT | SWAPPED | _guard()):
            found = guards if categories & GUARD else pages
            if found and found[-1][1] == start:
                found[-1] = found[-1][0], end
            else:
                found.append((start, end))
    return Memory(pages, guards)


def _guard() -> int:
    return GUARD if tells_guards() else 0


def pages(pid: int, *, only_dirty: bool) -> list[Range]:
    """Ranges (start, end) of the task's private memory that no file has; `only_dirty`: changed since `forget`.

    Raises HaulFailed (dirty) where the kernel does not tell; a task that is gone has none.
    """
    found: list[Range] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        must = SOFT_DIRTY if only_dirty else 0
        for start, end in _private(pid):
            if must or can_scan():
                found += [(low, high) for low, high, _ in _scan(pid, start, end, must=must)]
            else:
                found += _listed(pid, start, end)
    return found


def _private(pid: int) -> Iterator[Range]:
    for start, end, mode, name in _areas(pid):
        if mode[3] == "p" and name not in ("[vvar]", "[vdso]", "[vsyscall]", "[vvar_vclock]"):
            yield start, end


def _areas(pid: int) -> Iterator[tuple[int, int, str, str]]:
    """Start, end, permissions and name of what the task has mapped."""
    for line in procfs.lines(procfs.PROC / str(pid) / "maps"):
        fields = [*line.split(" ", 5), ""]
        start, _, end = fields[0].partition("-")
        yield int(start, 16), int(end, 16), fields[1], fields[5].lstrip(" ")


@cache
def can_scan() -> bool:
    """Whether the kernel has PAGEMAP_SCAN."""
    return _tells(PRESENT)


@cache
def tells_guards() -> bool:
    """Whether its PAGEMAP_SCAN tells of guard regions, as it does since Linux 6.16."""
    return _tells(GUARD)


@cache
def has_guards() -> bool:
    """Whether it has any, as it does since Linux 6.13."""
    page = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    at = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return not _LIBC.madvise(ctypes.c_void_p(at), ctypes.c_size_t(PAGE), MADV_GUARD_INSTALL)


def _tells(category: int) -> bool:
    try:
        start, end = next(_private(os.getpid()))
        list(_scan(os.getpid(), start, end, tell=category))
    except HaulFailed:
        return False
    return True


def _listed(pid: int, start: int, end: int) -> Iterator[Range]:
    """Page by page, from /proc/<pid>/pagemap: bit 63 present, 62 swapped, 61 of a file."""
    begun = 0
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(start // PAGE * _ENTRY)
        for at in range(start, end, _LISTED_PAGES * PAGE):
            entries = array("Q", pagemap.read(min(_LISTED_PAGES, (end - at) // PAGE) * _ENTRY))
            for index, entry in enumerate(entries):
                has = entry >> 62 and not entry >> 61 & 1
                if has and not begun:
                    begun = at + index * PAGE
                elif begun and not has:
                    yield begun, at + index * PAGE
                    begun = 0
    if begun:
        yield begun, end


def _scan(pid: int, start: int, end: int, *, must: int = 0, tell: int = PRESENT | SWAPPED) -> Iterator[_Found]:
    """Start, end and what of `tell` it is of the ranges that are there (and `must`), and no file's."""
    regions = (_Region * _REGIONS)()
    descriptor = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        while start < end:
            wish = _Scan(ctypes.sizeof(_Scan), 0, start, end, 0, ctypes.addressof(regions), _REGIONS, 0)
            wish.category_inverted = FILE | PFNZERO
            wish.category_mask = FILE | PFNZERO | must
            wish.category_anyof_mask, wish.return_mask = PRESENT | SWAPPED, tell
            count = _LIBC.ioctl(descriptor, ctypes.c_ulong(PAGEMAP_SCAN), ctypes.byref(wish))
            if count < 0:
                why = ctypes.get_errno()
                if why == errno.ESRCH:
                    raise ProcessLookupError
                raise HaulFailed(f"The kernel does not tell of a process's pages: {os.strerror(why)}.", code="dirty")
            yield from ((region.start, region.end, region.categories) for region in regions[:count])
            start = wish.walk_end
    finally:
        os.close(descriptor)
