"""Which pages of a running task have changed: the kernel's soft-dirty tracking, asked with PAGEMAP_SCAN.

Documentation/admin-guide/mm/soft-dirty.rst and pagemap.rst; numbers are those of linux/fs.h. To have
it one needs CONFIG_MEM_SOFT_DIRTY and Linux 6.7.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from phaul.errors import HaulFailed

PAGE = 4096
PAGEMAP_SCAN = 0xC0606610
FILE, PRESENT, SWAPPED, PFNZERO, SOFT_DIRTY = 4, 8, 16, 32, 128
_REGIONS = 512
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
        for start, end in _private(pid):
            found += _scan(pid, start, end, only_dirty=only_dirty)
    return found


def _private(pid: int) -> Iterator[tuple[int, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split()
        if fields[1][3] == "p" and fields[-1] not in ("[vvar]", "[vdso]", "[vsyscall]", "[vvar_vclock]"):
            start, _, end = fields[0].partition("-")
            yield int(start, 16), int(end, 16)


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
