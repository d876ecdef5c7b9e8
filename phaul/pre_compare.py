"""Pre-copy where the kernel does not tell what has changed: memory is compared with what was sent, by its digests.

The tasks are not stopped for it. Memory is read, sent and remembered by a digest for each UNIT; a
later round reads all of it again, and sends what differs. When they are frozen for good all of it is
read once more, which takes a tenth of the time that sending it would.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import secrets
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

from phaul import dirty
from phaul.errors import HaulFailed
from phaul.pages_source import Memory
from phaul.pages_wire import FORGET, FORGET_TASK, PAGE, Wish
from phaul.pre_copy import Ranges, Sender, Telling, is_last

LOG = logging.getLogger("phaul.precopy")
# Each round reads all of the memory, so there are fewer than where the kernel tells.
MAX_ROUNDS = 4
UNIT = 16 * PAGE
# Digests of one region lie in one piece.
REGION_UNITS, DIGEST_BYTES = 1024, 16
REGION = REGION_UNITS * UNIT
NOTHING = bytes(DIGEST_BYTES)
END: tuple[int, Ranges] = (1 << 64, [])
MAX_THREADS = 4
_RANGE = struct.Struct("=QQ")
_LIBC = ctypes.CDLL(None, use_errno=True)


class Digests:
    """What was sent of one task: a digest for each unit, by its address."""

    def __init__(self) -> None:
        self._regions: dict[int, bytearray] = {}

    def get(self, unit: int) -> bytes:
        """NOTHING where it was not sent."""
        region = self._regions.get(unit // REGION)
        at = unit % REGION // UNIT * DIGEST_BYTES
        return bytes(region[at : at + DIGEST_BYTES]) if region else NOTHING

    def put(self, unit: int, digest: bytes) -> None:
        region = self._regions.setdefault(unit // REGION, bytearray(REGION_UNITS * DIGEST_BYTES))
        at = unit % REGION // UNIT * DIGEST_BYTES
        region[at : at + DIGEST_BYTES] = digest

    def units(self) -> Iterator[int]:
        """The addresses of those that were sent."""
        for number in sorted(self._regions):
            for unit in range(number * REGION, (number + 1) * REGION, UNIT):
                if self.get(unit) != NOTHING:
                    yield unit


def by_unit(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, Ranges]]:
    """The ranges cut at the borders of units: each unit's address, and what of it there is."""
    for unit, parts in groupby(_cut(ranges), key=lambda part: part[0] // UNIT * UNIT):
        yield unit, list(parts)


def _cut(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for begin, end in ranges:
        start = begin
        while start < end:
            border = min(end, (start // UNIT + 1) * UNIT)
            yield start, border
            start = border


class Compared:
    """`tasks` tells who they are now: from the pid inside to the pid here.

    A pid may be another task's in the next round: then that one's memory is not what was sent.
    """

    def __init__(self, sender: Sender, tasks: Callable[[], dict[int, int]]) -> None:
        self._sender, self._tasks = sender, tasks
        self._sent: dict[int, Digests] = {}
        self._xxhash: Any = importlib.import_module("xxhash")
        # Nobody can make memory that differs and has the digest of what it was, without knowing this.
        self._seed = secrets.randbits(64)
        self._buffer = memoryview(bytearray(UNIT))

    def run(self, tell: Telling) -> None:
        before = 0
        for number in range(1, MAX_ROUNDS + 1):
            tell(number, None)
            size = sum(self._round(inner, pid) for inner, pid in self._tasks().items())
            tell(number, size)
            if is_last(number, size, before):
                return
            before = size

    def _forget_task(self, inner: int) -> None:
        self._sent.pop(inner, None)
        self._sender.say(Wish(inner, 0, 1), FORGET_TASK)

    def _round(self, inner: int, pid: int) -> int:
        """Send what differs of one task; bytes."""
        try:
            memory = Memory({inner: pid})
        except HaulFailed:
            self._forget_task(inner)
            return 0
        sent = self._sent.setdefault(inner, Digests())
        with contextlib.closing(memory):
            units = by_unit(dirty.pages(pid, only_dirty=False))
            return sum(self._unit(memory, inner, sent, unit, parts) for unit, parts in units)

    def _unit(self, memory: Memory, inner: int, sent: Digests, unit: int, parts: Ranges) -> int:
        old = sent.get(unit)
        try:
            read = list(self._read(memory, inner, parts))
        except HaulFailed:
            # Some of it is unmapped by now.
            read = []
        digest = self._digest(parts, read) if read else NOTHING
        if digest == old:
            return 0
        if old != NOTHING:
            self._sender.say(Wish(inner, unit, UNIT // PAGE), FORGET)
        sent.put(unit, digest)
        for (start, _), data in zip(parts, read, strict=False):
            self._sender.send(self._sender.answer.of(Wish(inner, start, len(data) // PAGE), data))
        return sum(map(len, read))

    def _read(self, memory: Memory, inner: int, parts: Ranges) -> Iterator[memoryview]:
        at = 0
        for start, end in parts:
            into = self._buffer[at : at + end - start]
            memory.read(Wish(inner, start, (end - start) // PAGE), into)
            yield into
            at += end - start

    def _digest(self, parts: Ranges, read: Iterable[bytes | memoryview]) -> bytes:
        state = self._xxhash.xxh3_128(seed=self._seed)
        for (start, end), data in zip(parts, read, strict=True):
            state.update(_RANGE.pack(start, end))
            state.update(data)
        return bytes(state.digest())

    def settle(self) -> None:
        now = self._tasks()
        for inner in list(self._sent):
            if inner in now:
                self._take_back(inner, now[inner])
            else:
                self._forget_task(inner)

    def _take_back(self, inner: int, pid: int) -> None:
        units = list(self._sent[inner].units())
        count = min(MAX_THREADS, len(os.sched_getaffinity(0)))
        shares = [units[len(units) * n // count : len(units) * (n + 1) // count] for n in range(count)]
        present = dirty.pages(pid, only_dirty=False)
        with ThreadPoolExecutor(count, thread_name_prefix="compare") as pool:
            for found in pool.map(lambda share: self._differing(inner, pid, share, present), shares):
                for unit in found:
                    self._sender.say(Wish(inner, unit, UNIT // PAGE), FORGET)

    def _differing(self, inner: int, pid: int, units: list[int], present: Ranges) -> list[int]:
        """Of the units, in their order, those that are not as they were sent."""
        sent, window, found = self._sent[inner], Window(pid), []
        there = by_unit((start, end) for start, end in present if units and end > units[0])
        seen, parts = next(there, END)
        for unit in units:
            while seen < unit:
                seen, parts = next(there, END)
            read = window.read(parts) if seen == unit else None
            if read is None or self._digest(parts, read) != sent.get(unit):
                found.append(unit)
        LOG.debug("%d of %d units of %d differ", len(found), len(units), inner)
        return found


class _Part(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Window:
    """Reads a frozen task's memory a unit at a time, by process_vm_readv(2): twice as quick as /proc/<pid>/mem."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._buffer = bytearray(UNIT)
        self._view = memoryview(self._buffer)
        self._into = _Part(ctypes.addressof(ctypes.c_char.from_buffer(self._buffer)), UNIT)

    def read(self, parts: Ranges) -> list[memoryview] | None:
        """The bytes of each part, until the next call; None where they cannot all be read."""
        theirs = (_Part * len(parts))(*(_Part(start, end - start) for start, end in parts))
        size = sum(end - start for start, end in parts)
        self._into.length = size
        got = _LIBC.process_vm_readv(self._pid, ctypes.byref(self._into), 1, theirs, len(parts), 0)
        if got != size:
            return None
        found, at = [], 0
        for start, end in parts:
            found.append(self._view[at : at + end - start])
            at += end - start
        return found
