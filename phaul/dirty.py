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
from functools import cache
from pathlib import Path

from phaul import procfs
from phaul.errors import HaulFailed

PAGE = 4096
PAGEMAP_SCAN = 0xC0606610
FILE, PRESENT, SWAPPED, PFNZERO, SOFT_DIRTY = 4, 8, 16, 32, 128
_REGIONS = 512
_LISTED_PAGES, _ENTRY = 1 << 14, 8
_U64 = ctypes.c_uint64


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
        before = list(_scan(os.getpid(), address, address + PAGE, only_dirty=True))
        page[0] = 2
        return not before and bool(list(_scan(os.getpid(), address, address + PAGE, only_dirty=True)))
    return False


def forget(pid: int) -> None:
    """What the task's pages are now is clean. Raises OSError."""
    (Path("/proc") / str(pid) / "clear_refs").write_text("4")


def pages(pid: int, *, only_dirty: bool) -> list[tuple[int, int]]:
    """Ranges (start, end) of the task's private memory that no file has; `only_dirty`: changed since `forget`.

    Raises HaulFailed (dirty) where the kernel does not tell; a task that is gone has none.
    """
    found: list[tuple[int, int]] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        scan = _scan if only_dirty or _can_scan() else _listed
        for start, end in _private(pid):
            found += scan(pid, start, end, only_dirty=only_dirty)
    return found


def _private(pid: int) -> Iterator[tuple[int, int]]:
    for line in procfs.lines(procfs.PROC / str(pid) / "maps"):
        fields = [*line.split(" ", 5), ""]
        if fields[1][3] == "p" and fields[5].lstrip(" ") not in ("[vvar]", "[vdso]", "[vsyscall]", "[vvar_vclock]"):
            start, _, end = fields[0].partition("-")
            yield int(start, 16), int(end, 16)


@cache
def _can_scan() -> bool:
    """Whether the kernel has PAGEMAP_SCAN."""
    try:
        start, end = next(_private(os.getpid()))
        list(_scan(os.getpid(), start, end, only_dirty=False))
    except HaulFailed:
        return False
    return True


def _listed(pid: int, start: int, end: int, *, only_dirty: bool) -> Iterator[tuple[int, int]]:
    """Page by page, from /proc/<pid>/pagemap: bit 63 present, 62 swapped, 61 of a file."""
    assert not only_dirty
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


def _scan(pid: int, start: int, end: int, *, only_dirty: bool) -> Iterator[tuple[int, int]]:
    regions = (_Region * _REGIONS)()
    descriptor = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    must = SOFT_DIRTY if only_dirty else 0
    try:
        while start < end:
            wish = _Scan(ctypes.sizeof(_Scan), 0, start, end, 0, ctypes.addressof(regions), _REGIONS, 0)
            wish.category_inverted = FILE | PFNZERO
            wish.category_mask = FILE | PFNZERO | must
            wish.category_anyof_mask, wish.return_mask = PRESENT | SWAPPED, PRESENT | SWAPPED
            count = _LIBC.ioctl(descriptor, ctypes.c_ulong(PAGEMAP_SCAN), ctypes.byref(wish))
            if count < 0:
                why = ctypes.get_errno()
                if why == errno.ESRCH:
                    raise ProcessLookupError
                raise HaulFailed(f"The kernel does not tell which pages changed: {os.strerror(why)}.", code="dirty")
            for region in regions[:count]:
                yield region.start, region.end
            start = wish.walk_end
    finally:
        os.close(descriptor)
