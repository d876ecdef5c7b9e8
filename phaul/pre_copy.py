"""Pre-copy: memory goes to the target in rounds while its tasks run, so that little of it is left for the freeze.

A round stops the tasks for the moment in which the kernel is asked what has changed; then they run
on, and that is sent. What changes after it was sent is changed in the next round. When they are
frozen for good, the target is told what of it all is not true any more, and asks for that itself.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from phaul import dirty, tasks_seen
from phaul.connection import Connection
from phaul.errors import HaulFailed
from phaul.mstats import readable
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


class PreCopy:
    """`tasks` tells who they are now: from the pid inside to the pid here.

    `stopped` runs a function while they all stand still.
    """

    def __init__(
        self,
        channel: Connection,
        tasks: Callable[[], dict[int, int]],
        stopped: Callable[[Callable[[], None]], None],
        on_bytes: Count,
    ) -> None:
        self._channel, self._tasks, self._stopped, self._on_bytes = channel, tasks, stopped, on_bytes
        self._seen: Tasks = {}
        self._changed: dict[int, Ranges] = {}
        self._answer = Answer()

    def run(self, tell: Callable[[str], None]) -> None:
        """Rounds until another one would gain little. Raises LinkLost, HaulFailed."""
        before = 0
        for number in range(1, MAX_ROUNDS + 1):
            self._stopped(self._look)
            size = sum(end - start for ranges in self._changed.values() for start, end in ranges)
            tell(f"round {number}: {readable(size)} changed")
            if number > 1 and (size <= FEW_PAGES * PAGE or size > before * GROWTH):
                return
            self._send()
            self._changed, before = {}, size

    def _who(self) -> Tasks:
        return {inner: (pid, tasks_seen.born(pid)) for inner, pid in self._tasks().items()}

    def _look(self) -> None:
        now = self._who()
        self._changed = {}
        for inner, (pid, born) in now.items():
            known = self._seen.get(inner) == (pid, born)
            self._changed[inner] = dirty.pages(pid, only_dirty=known)
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                dirty.forget(pid)
        self._seen = now

    def _send(self) -> None:
        for inner, ranges in self._changed.items():
            try:
                memory = Memory({inner: self._seen[inner][0]})
            except HaulFailed:
                self._say(Wish(inner, 0, 1), FORGET_TASK)
                continue
            with contextlib.closing(memory):
                for start, end in ranges:
                    self._send_range(memory, inner, start, end)

    def _send_range(self, memory: Memory, inner: int, start: int, end: int) -> None:
        for wish in wishes(inner, start, end):
            try:
                data = self._answer.fill(memory, wish)
            except HaulFailed:
                # Some of it is unmapped by now. The rest may have changed, and what was sent before would pass for it.
                LOG.debug("of %d pages of %d at %#x some are gone", wish.pages, inner, wish.start)
                self._say(wish, FORGET)
                continue
            self._on_bytes(self._channel.link.send_chunk(data), len(data) - LENGTH.size)

    def settle(self) -> None:
        """They are frozen: take back what is not true any more."""
        now = self._who()
        for inner, (pid, born) in self._seen.items():
            if now.get(inner) == (pid, born):
                self._take_back(inner, [*self._changed.get(inner, ()), *dirty.pages(pid, only_dirty=True)])
            else:
                self._say(Wish(inner, 0, 1), FORGET_TASK)

    def _take_back(self, inner: int, ranges: Ranges) -> None:
        for start, end in ranges:
            for wish in wishes(inner, start, end):
                self._say(wish, FORGET)

    def _say(self, wish: Wish, word: int) -> None:
        self._channel.link.send(LENGTH.pack(ANSWER_BYTES) + wish.answer(word))

    def end(self) -> None:
        """The stream's end. Raises LinkLost where the target has not all of it."""
        with contextlib.closing(self._channel.link):
            self._channel.link.send(LENGTH.pack(0))
            if self._channel.link.recv(LENGTH.size) != LENGTH.pack(0):
                raise self._channel.link.lost("it ended before all of the memory had come")
