"""Serving a frozen task's memory to the target's pager: nothing is remembered, so a lost connection costs nothing.

What is read is /proc/<pid>/mem of tasks that do not run, so a page is the same however often, and
from whichever process of ours, it is asked for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from phaul.connection import Connection
from phaul.errors import HaulFailed, PhaulError, ProtocolError, Unreachable
from phaul.link import Link
from phaul.pages_wire import ANSWER_BYTES, MAX_PAGES, PAGE, REQUEST_BYTES, Wish, wish_of
from phaul.relay import LENGTH, Count

LOG = logging.getLogger("phaul.pages")
RETRY_SECONDS, END_SECONDS = 0.5, 1.0
BULK, DEMAND = "pages:bulk", "pages:demand"
CHANNELS = (BULK, DEMAND)
_HEAD = LENGTH.size + ANSWER_BYTES
_ZEROS = bytes(MAX_PAGES * PAGE)


class Memory:
    """The memory of frozen tasks: a table from the pid inside to the pid here. Raises HaulFailed (pages)."""

    def __init__(self, tasks: dict[int, int]) -> None:
        self._files: dict[int, int] = {}
        for inner, pid in tasks.items():
            try:
                self._files[inner] = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                self.close()
                raise HaulFailed(
                    f"The memory of process {pid} cannot be read: {error.strerror}.", code="pages"
                ) from None

    def read(self, wish: Wish, into: memoryview) -> None:
        """Raises HaulFailed (pages), ProtocolError where the peer asks for a task that is none of these."""
        if wish.task not in self._files:
            raise ProtocolError(f"The peer asks for memory of process {wish.task}, which is not hauled.")
        done = 0
        while done < wish.size:
            try:
                got = os.preadv(self._files[wish.task], [into[done : wish.size]], wish.start + done)
            except OSError as error:
                got, why = 0, error.strerror
            else:
                why = "the process is gone"
            if not got:
                raise HaulFailed(
                    f"Memory of process {wish.task} at {wish.start + done:#x} cannot be read: {why}.", code="pages"
                )
            done += got

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}


class Answer:
    """A buffer for one answer after another, behind room for the length of the chunk that it travels as."""

    def __init__(self) -> None:
        self._buffer = bytearray(_HEAD + MAX_PAGES * PAGE)
        self._view = memoryview(self._buffer)

    def fill(self, memory: Memory, wish: Wish) -> memoryview:
        """What Link.send_chunk takes. Raises as `Memory.read` does."""
        memory.read(wish, self._view[_HEAD : _HEAD + wish.size])
        return self._headed(wish)

    def of(self, wish: Wish, data: memoryview) -> memoryview:
        """What is to be sent, where the wish's bytes are read already."""
        self._view[_HEAD : _HEAD + wish.size] = data
        return self._headed(wish)

    def _headed(self, wish: Wish) -> memoryview:
        size = 0 if self._is_zero(wish.size) else wish.size
        self._buffer[LENGTH.size : _HEAD] = wish.answer(size)
        return self._view[: _HEAD + size]

    def _is_zero(self, size: int) -> bool:
        """Seldom, so the ends are looked at first."""
        if any(self._buffer[_HEAD : _HEAD + 64]) or any(self._buffer[_HEAD + size - 64 : _HEAD + size]):
            return False
        return self._buffer[_HEAD : _HEAD + size] == _ZEROS[:size]


def serve(link: Link, memory: Memory, *, on_bytes: Count = lambda *_: None) -> None:
    """Answer requests until the peer ends the stream. Raises LinkLost, ProtocolError, HaulFailed (pages)."""
    answer = Answer()
    for wish in _wishes(link):
        data = answer.fill(memory, wish)
        on_bytes(link.send_chunk(data, timeout=None), len(data) - LENGTH.size)


def _wishes(link: Link) -> Iterator[Wish]:
    rest = b""
    for chunk in link.recv_chunks(timeout=None):
        rest += chunk
        whole = len(rest) - len(rest) % REQUEST_BYTES
        for at in range(0, whole, REQUEST_BYTES):
            yield wish_of(rest[at : at + REQUEST_BYTES])
        rest = rest[whole:]


class Serving:
    """Threads that serve the memory on both channels, each on a new connection whenever one is lost.

    `open_channel` opens a channel by its name, or raises. What cannot be tried again ends in `failure`, of which
    `on_failure` tells.
    """

    def __init__(
        self,
        memory: Memory,
        open_channel: Callable[[str], Connection],
        *,
        on_bytes: Count = lambda *_: None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._memory, self._open, self._on_bytes, self._on_failure = memory, open_channel, on_bytes, on_failure
        self._over = threading.Event()
        self._opened: dict[str, Connection] = {}
        self._links: dict[str, Link] = {}
        self._threads: list[threading.Thread] = []
        self.failure: PhaulError | None = None

    def start(self, opened: dict[str, Connection]) -> None:
        """Begin with what tasks wait for; the connections `opened` are there already."""
        self._opened = dict(opened)
        self._begin(DEMAND)

    def push(self) -> None:
        """Begin with the bulk, once: it takes the time of processors that a restore needs as well."""
        if all(thread.name != BULK for thread in self._threads):
            self._begin(BULK)

    def _begin(self, name: str) -> None:
        opened = self._opened.pop(name, None)
        thread = threading.Thread(target=self._keep_serving, args=(name, opened), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _keep_serving(self, name: str, channel: Connection | None) -> None:
        while not self._over.is_set():
            try:
                channel = channel or self._open(name)
                self._links[name] = channel.link
                if not self._over.is_set():
                    serve(channel.link, self._memory, on_bytes=self._on_bytes)
                return
            except Unreachable as error:
                LOG.info("channel %s: %s", name, error.sentence)
            except PhaulError as error:
                self.failure = error
                self._on_failure()
                return
            finally:
                if channel:
                    channel.link.close()
                channel = None
            self._over.wait(RETRY_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._over.set()
        unused = [channel.link for channel in self._opened.values()]
        for link in (*unused, *self._links.values()):
            with contextlib.suppress(OSError):
                link.close()
        for thread in self._threads:
            thread.join(END_SECONDS)
        # One may still be opening a channel to a host that does not answer: it ends by itself.
        if not any(thread.is_alive() for thread in self._threads):
            self._memory.close()
