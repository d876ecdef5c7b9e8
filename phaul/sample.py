"""A look at the memory of running tasks, spread over all of it: what is compressed well here is so there.

Only pages that are in memory and no file's are read (/proc/<pid>/pagemap, admin-guide/mm/pagemap.rst):
reading others would give the tasks pages which they never had.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import struct
import time

from phaul import procfs

PAGE, PIECE = 4096, 64 << 10
SECONDS = 0.04
TRIES, TASKS = 4096, 100
_PRESENT, _FILE = 1 << 63, 1 << 61
# Multiples of it, modulo 1, are spread evenly however soon one stops.
_GOLDEN = 0.618033988749895
_ENTRIES = struct.Struct(f"={PIECE // PAGE}Q")


def of(pids: list[int], most: int) -> list[bytes]:
    """Pieces of at most PIECE bytes, `most` bytes in all; what cannot be read in time, or at all, is left out."""
    until = time.monotonic() + SECONDS
    found: list[bytes] = []
    with contextlib.ExitStack() as files:
        areas = _Areas(pids, files, until=until - SECONDS / 2)
        for number in range(areas.tries):
            if most < PIECE or time.monotonic() > until:
                break
            piece = areas.piece(int(number * _GOLDEN % 1 * areas.pieces))
            if piece.strip(b"\0"):
                found.append(piece)
                most -= len(piece)
    return found


class _Areas:
    """The tasks' private areas one behind the other, in pieces."""

    def __init__(self, pids: list[int], files: contextlib.ExitStack, *, until: float) -> None:
        self.pieces = 0
        self._ends: list[int] = []
        self._areas: list[tuple[int, int, int, int]] = []
        self._seen: set[int] = set()
        for pid in pids[:: 1 + len(pids) // TASKS]:
            if time.monotonic() > until:
                break
            with contextlib.suppress(OSError):
                self._add(pid, files)
        self.tries = min(TRIES, 4 * self.pieces)

    def _add(self, pid: int, files: contextlib.ExitStack) -> None:
        proc = procfs.PROC / str(pid)
        maps = procfs.lines(proc / "maps")
        memory, pagemap = (files.enter_context((proc / name).open("rb", buffering=0)) for name in ("mem", "pagemap"))
        for line in maps:
            bounds, access, *_ = line.split(" ")
            start, end = (int(bound, 16) for bound in bounds.split("-"))
            if access[0] == "r" and access[3] == "p" and "[v" not in line:
                self.pieces += -(-(end - start) // PIECE)
                self._ends.append(self.pieces)
                self._areas.append((start, end, memory.fileno(), pagemap.fileno()))

    def piece(self, number: int) -> bytes:
        """What of the piece is in memory; nothing the second time, or where it cannot be read."""
        if number in self._seen:
            return b""
        self._seen.add(number)
        at = bisect.bisect_right(self._ends, number)
        start, end, memory, pagemap = self._areas[at]
        start += (number - (self._ends[at - 1] if at else 0)) * PIECE
        with contextlib.suppress(OSError):
            return _read(start, min(end, start + PIECE), memory, pagemap)
        return b""


def _read(start: int, end: int, memory: int, pagemap: int) -> bytes:
    count = (end - start) // PAGE
    entries = os.pread(pagemap, 8 * count, start // PAGE * 8)
    flags = _ENTRIES.unpack(entries.ljust(_ENTRIES.size, b"\0"))[:count]
    there = [start + at * PAGE for at, entry in enumerate(flags) if entry & _PRESENT and not entry & _FILE]
    if len(there) == count:
        return os.pread(memory, end - start, start)
    return b"".join(os.pread(memory, PAGE, address) for address in there)
