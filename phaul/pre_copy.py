"""Pre-copy: memory goes to the target in rounds while its tasks run, so that little of it is left for the freeze.

When they are frozen for good, the target is told what of it all is not true any more, and asks for
that itself. What has changed, and when, the kernel tells (Tracked), or memory is compared with what
was sent (pre_compare.Compared).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Protocol

from phaul import dirty, tasks_seen
from phaul.connection import Connection
from phaul.errors import HaulFailed
from phaul.pages_source import Answer, Memory
from phaul.pages_wire import ANSWER_BYTES, FORGET, FORGET_TASK, PAGE, Wish, wishes
from phaul.relay import LENGTH, Count

LOG = logging.getLogger("phaul.precopy")
CHANNEL = "pages:store"
# Upstream's rules: so many rounds, so few pages left, or more than 10 % growth from one round to the next.
MAX_ROUNDS, FEW_PAGES, GROWTH = 8, 64, 1.1

# With the birth of each, as tasks_seen.born has it: a pid may be another's in the next round.
Tasks = dict[int, tuple[int, str]]
Ranges = list[tuple[int, int]]


def is_last(number: int, size: int, before: int) -> bool:
    """Whether the round of that number (from 1) and size, in bytes, leaves little to gain for another one."""
    return number > 1 and (size <= FEW_PAGES * PAGE or size > before * GROWTH)


# A round's number, and how many bytes had changed since the one before: None as long as that is not known.
Telling = Callable[[int, int | None], None]


class Rounds(Protocol):
    """A way of pre-copy. Raises LinkLost, HaulFailed."""

    def run(self, tell: Telling) -> None:
        """Rounds until another one would gain little."""

    def settle(self) -> None:
        """They are frozen: take back what is not true any more."""


class Sender:
    """The stream to the target's store."""

    def __init__(self, channel: Connection, on_bytes: Count) -> None:
        self._channel, self._on_bytes = channel, on_bytes
        self.answer = Answer()

    def say(self, wish: Wish, word: int) -> None:
        """FORGET or FORGET_TASK."""
        self._channel.link.send(LENGTH.pack(ANSWER_BYTES) + wish.answer(word))

    def send(self, data: memoryview) -> None:
        """What `answer` was filled with."""
        self._on_bytes(self._channel.link.send_chunk(data), len(data) - LENGTH.size)

    def end(self) -> None:
        """The stream's end. Raises LinkLost where the target has not all of it."""
        with contextlib.closing(self._channel.link):
            self._channel.link.send(LENGTH.pack(0))
            if self._channel.link.recv(LENGTH.size) != LENGTH.pack(0):
                raise self._channel.link.lost("it ended before all of the memory had come")


def born(tasks: dict[int, int]) -> Tasks:
    return {inner: (pid, tasks_seen.born(pid)) for inner, pid in tasks.items()}


class Tracked:
    """The kernel tells what has changed. A round stops the tasks for the moment in which it is asked; then they run on.

    `tasks` tells who they are now: from the pid inside to the pid here. `stopped` runs a function
    while they all stand still. What changes after it was sent is changed in the next round.
    """

    def __init__(
        self, sender: Sender, tasks: Callable[[], dict[int, int]], stopped: Callable[[Callable[[], None]], None]
    ) -> None:
        self._sender, self._tasks, self._stopped = sender, tasks, stopped
        self._seen: Tasks = {}
        self._changed: dict[int, Ranges] = {}

    def run(self, tell: Telling) -> None:
        before = 0
        for number in range(1, MAX_ROUNDS + 1):
            self._stopped(self._look)
            size = sum(end - start for ranges in self._changed.values() for start, end in ranges)
            tell(number, size)
            if is_last(number, size, before):
                return
            self._send()
            self._changed, before = {}, size

    def _look(self) -> None:
        now = born(self._tasks())
        self._changed = {}
        for inner, (pid, birth) in now.items():
            known = self._seen.get(inner) == (pid, birth)
            self._changed[inner] = dirty.pages(pid, only_dirty=known)
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                dirty.forget(pid)
        self._seen = now

    def _send(self) -> None:
        for inner, ranges in self._changed.items():
            try:
                memory = Memory({inner: self._seen[inner][0]})
            except HaulFailed:
                self._sender.say(Wish(inner, 0, 1), FORGET_TASK)
                continue
            with contextlib.closing(memory):
                for start, end in ranges:
                    self._send_range(memory, inner, start, end)

    def _send_range(self, memory: Memory, inner: int, start: int, end: int) -> None:
        for wish in wishes(inner, start, end):
            try:
                data = self._sender.answer.fill(memory, wish)
            except HaulFailed:
                # Some of it is unmapped by now. The rest may have changed, and what was sent before would pass for it.
                LOG.debug("of %d pages of %d at %#x some are gone", wish.pages, inner, wish.start)
                self._sender.say(wish, FORGET)
                continue
            self._sender.send(data)

    def settle(self) -> None:
        now = born(self._tasks())
        for inner, (pid, birth) in self._seen.items():
            if now.get(inner) == (pid, birth):
                self._take_back(inner, [*self._changed.get(inner, ()), *dirty.pages(pid, only_dirty=True)])
            else:
                self._sender.say(Wish(inner, 0, 1), FORGET_TASK)

    def _take_back(self, inner: int, ranges: Ranges) -> None:
        for start, end in ranges:
            for wish in wishes(inner, start, end):
                self._sender.say(wish, FORGET)
