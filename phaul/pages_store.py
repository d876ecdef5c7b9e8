"""Pages that came before their tasks: what pre-copy sent, kept in memory until the tasks are there.

They lie in a memory file, each range behind the last one that came; what is taken out or has
become untrue gives its room back at once.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import os
import socket

from phaul.errors import ProtocolError
from phaul.pages_wire import ANSWER_BYTES, FORGET, FORGET_TASK, MAX_PAGES, PAGE, Wish, answer_of
from phaul.spans import Spans

_LIBC = ctypes.CDLL(None, use_errno=True)
# Of all tasks: 8 GiB in pages of which each second one came.
MAX_SPANS = 2 << 20
_PUNCH_HOLE = 3  # with FALLOC_FL_KEEP_SIZE, linux/falloc.h


class Store:
    """For each task the spans that are here; a span's source is its place in the file."""

    def __init__(self) -> None:
        self._pages = mmap.mmap(-1, MAX_PAGES * PAGE)
        self.buffer = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))
        self._view = memoryview(self._pages)
        self._file = os.memfd_create("phaul-pages", os.MFD_CLOEXEC)
        self._end = self._count = 0
        self._tasks: dict[int, Spans] = {}

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(spans.size for spans in self._tasks.values())

    def spans(self, task: int) -> Spans:
        return self._tasks.setdefault(task, Spans())

    def put(self, wish: Wish, data: memoryview) -> None:
        """`data` may be empty: zeros. Raises ProtocolError for what no host's tasks have."""
        self.forget(wish)
        self._count += 1
        # Neighbours become one: there are fewer than came, and they are counted when that says nothing any more.
        if self._count > MAX_SPANS:
            self._count = sum(map(len, self._tasks.values()))
            if self._count > MAX_SPANS // 2:
                raise ProtocolError("The source sends memory in more pieces than tasks have.")
        if data:
            os.pwrite(self._file, data, self._end)
        else:
            os.truncate(self._file, self._end + wish.size)
        self.spans(wish.task).add([(wish.start, wish.end, self._end)])
        self._end += wish.size

    def forget(self, wish: Wish) -> None:
        known = self._tasks.get(wish.task)
        for start, end, place in known.cut(wish.start, wish.end) if known else ():
            self._punch(place, end - start)

    def forget_task(self, task: int) -> None:
        for start, end, place in self._tasks.pop(task, Spans()):
            self._punch(place, end - start)

    def take(self, task: int, most: int = MAX_PAGES * PAGE, after: int = 0) -> Wish | None:
        """Take out the task's next pages from the address `after` on; their bytes are at `buffer` then."""
        known = self._tasks.get(task)
        span = known.take(most, after) if known else None
        if not span:
            return None
        start, end, place = span
        os.preadv(self._file, [self._view[: end - start]], place)
        self._punch(place, end - start)
        return Wish(task, start, (end - start) // PAGE)

    def _punch(self, place: int, length: int) -> None:
        _LIBC.fallocate(self._file, _PUNCH_HOLE, ctypes.c_int64(place), ctypes.c_int64(length))


def receive(sock: socket.socket, store: Store) -> None:
    """Everything that the source sends before its tasks are frozen, to the end. Raises ProtocolError, OSError."""
    buffer = memoryview(bytearray(MAX_PAGES * PAGE))
    with io.BufferedReader(socket.SocketIO(sock, "r"), 1 << 20) as stream:
        while head := stream.read(ANSWER_BYTES):
            if len(head) < ANSWER_BYTES:
                raise ConnectionResetError("the stream ended in the middle")
            wish, size = answer_of(head, unasked=True)
            if size == FORGET:
                store.forget(wish)
            elif size == FORGET_TASK:
                store.forget_task(wish.task)
            else:
                if stream.readinto(buffer[:size]) != size:
                    raise ConnectionResetError("the stream ended in the middle")
                store.put(wish, buffer[:size])
