"""Pages on request: what a target's pager asks for, and what the source answers.

On the bulk channels "pages:bulk" and "pages:demand", in the chunks of relay.py: a request names a
task (its pid inside), a number of pages and an address; the answer repeats that, says how many
bytes follow (0: all of them are zero), and they follow. Answers come in the order of the requests.
On "pages:store" answers come unasked, before the freeze, and FORGET in place of the number of bytes
takes such an answer back, FORGET_TASK all of the task. All numbers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from phaul.errors import ProtocolError

PAGE = 4096
MAX_PAGES = 64
FORGET, FORGET_TASK = 0xFFFFFFFF, 0xFFFFFFFE

_REQUEST = struct.Struct(">IIQ")
_ANSWER = struct.Struct(">IIQI")
REQUEST_BYTES, ANSWER_BYTES = _REQUEST.size, _ANSWER.size


@dataclass(frozen=True)
class Wish:
    """A range of a frozen task's memory, at most MAX_PAGES long."""

    task: int
    start: int
    pages: int

    @property
    def end(self) -> int:
        return self.start + self.pages * PAGE

    @property
    def size(self) -> int:
        return self.pages * PAGE

    def packed(self) -> bytes:
        return _REQUEST.pack(self.task, self.pages, self.start)

    def answer(self, size: int) -> bytes:
        """The head of an answer that `size` bytes follow."""
        return _ANSWER.pack(self.task, self.pages, self.start, size)


def wish_of(data: bytes) -> Wish:
    """Raises ProtocolError for what no pager asks."""
    task, pages, start = _REQUEST.unpack(data)
    return _checked(Wish(task, start, pages))


def wishes(task: int, start: int, end: int) -> Iterator[Wish]:
    """The range in pieces."""
    while start < end:
        wish = Wish(task, start, min(MAX_PAGES, (end - start) // PAGE))
        yield wish
        start = wish.end


def answer_of(data: bytes, *, unasked: bool = False) -> tuple[Wish, int]:
    """The wish that is answered, and how many bytes follow, or FORGET or FORGET_TASK where `unasked`.

    Raises ProtocolError.
    """
    task, pages, start, size = _ANSWER.unpack(data)
    wish = _checked(Wish(task, start, pages))
    if size not in (0, wish.size) and not (unasked and size in (FORGET, FORGET_TASK)):
        raise ProtocolError(f"The peer answers {wish.pages} pages with {size} bytes.")
    return wish, size


def _checked(wish: Wish) -> Wish:
    if not 0 < wish.pages <= MAX_PAGES or wish.start % PAGE or wish.end >= 1 << 63:
        raise ProtocolError(f"The peer named {wish.pages} pages at {wish.start:#x}, which cannot be.")
    return wish
