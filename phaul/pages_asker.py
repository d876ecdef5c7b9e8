"""The pager's end of a channel to the source: wishes go out, answers come in, in the same order."""

from __future__ import annotations

import ctypes
import mmap
import socket
import time
from collections import deque
from collections.abc import Callable
from itertools import islice

from phaul.errors import ProtocolError
from phaul.pages_wire import ANSWER_BYTES, MAX_PAGES, PAGE, Wish, answer_of

# Wishes of at most 256 KiB.
FIRST_WINDOW, MIN_WINDOW, MAX_WINDOW = 16, 4, 64
QUEUE_SECONDS = 0.05


class Window:
    """How many wishes to have on the way: enough to fill the link, few enough that an urgent one is not held up.

    It grows while answers take little longer than the quickest one, and shrinks when they queue.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.size = FIRST_WINDOW
        self._clock = clock
        self._since: deque[float] = deque()
        self._quickest = float("inf")

    def asked(self) -> None:
        self._since.append(self._clock())

    def answered(self) -> None:
        taken = self._clock() - self._since.popleft()
        self._quickest = min(self._quickest, taken)
        if taken > self._quickest + QUEUE_SECONDS:
            self.size = max(MIN_WINDOW, self.size - 1)
        elif taken < self._quickest + QUEUE_SECONDS / 2:
            self.size = min(MAX_WINDOW, self.size + 1)


class Asker:
    """A non-blocking local socket whose far end is the source. `buffer` is the address of the last answer's pages.

    `flows` once there was an answer.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.asked: deque[Wish] = deque()
        self._window = Window()
        self._out = bytearray()
        self._pages = mmap.mmap(-1, MAX_PAGES * PAGE)
        self.buffer = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))
        self._view = memoryview(self._pages)
        self._head = bytearray(ANSWER_BYTES)
        self._got = 0
        self._answer: tuple[Wish, int] | None = None
        self.flows = False

    def pages(self, wish: Wish) -> memoryview:
        """Of the answer to the wish, which is the last one."""
        return self._view[: wish.size]

    @property
    def wants_out(self) -> bool:
        return bool(self._out)

    @property
    def has_room(self) -> bool:
        return len(self.asked) < self._window.size

    def comes_within(self, wish: Wish, count: int) -> bool:
        """Whether the wish's first page is among the next `count` answers of a source that does answer."""
        return self.flows and any(
            a.task == wish.task and a.start <= wish.start < a.end for a in islice(self.asked, count)
        )

    def ask(self, wish: Wish) -> None:
        self.asked.append(wish)
        self._window.asked()
        self._out += wish.packed()

    def write(self) -> None:
        """Raises OSError where the far end is gone."""
        if self._out:
            try:
                del self._out[: self.socket.send(self._out)]
            except BlockingIOError:
                return

    def read(self) -> Wish | None:
        """The wish whose pages are all in `buffer` now; None: more has to come first.

        Raises ConnectionError where the far end is gone, ProtocolError for what is no answer to what was asked.
        """
        if self._answer is None and self._receive(memoryview(self._head)):
            self._answer = answer_of(bytes(self._head))
            if not self.asked or self._answer[0] != self.asked[0]:
                raise ProtocolError("The source answers what it was not asked.")
            self._got = 0
        if self._answer is None:
            return None
        wish, size = self._answer
        if size == 0:
            self._view[: wish.size] = bytes(wish.size)
        elif not self._receive(self._view[:size]):
            return None
        self._answer, self._got, self.flows = None, 0, True
        self._window.answered()
        return self.asked.popleft()

    def _receive(self, into: memoryview) -> bool:
        """Whether it is full."""
        while self._got < len(into):
            try:
                got = self.socket.recv_into(into[self._got :])
            except BlockingIOError:
                return False
            if not got:
                raise ConnectionResetError("the source's end is closed")
            self._got += got
        return True
