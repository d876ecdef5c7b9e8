"""The passes over a haul's trees: live ones until little is left, and one frozen one poised beforehand."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from phaul import fs_haul_subtree
from phaul.connection import Connection
from phaul.fs_haul import TOP, Push
from phaul.htype import Tree
from phaul.mstats import Stats
from phaul.tasks import Crew

LOG = logging.getLogger("phaul.fs")
MAX_PASSES = 4
SMALL_PASS = 1 << 20


@dataclass(frozen=True)
class Poised:
    """The frozen pass over one tree, greeted and waiting: all of it, and what dates cannot tell by content."""

    tree: Tree
    whole: Push
    listed: Push
    whole_done: Future[int]


class Passes:
    """`channel` opens a bulk channel by its name; "tree:0" is the first tree's. `mapped` is Source.mapped."""

    def __init__(
        self,
        trees: list[Tree],
        channel: Callable[[str], Connection],
        mapped: Callable[[], list[str]],
        stats: Stats,
    ) -> None:
        self._trees, self._channel, self._mapped, self._stats = trees, channel, mapped, stats
        self._last_live = 0.0
        self._mapped_live: list[str] = []

    def sync(self) -> None:
        """Live passes until one moves little, or no less than the one before."""
        before = -1
        for _ in range(MAX_PASSES):
            self._last_live, self._mapped_live = time.time(), self._mapped()
            sent = self._live_pass()
            if sent < SMALL_PASS or 0 <= before <= sent:
                return
            before = sent

    def _live_pass(self) -> int:
        with Crew() as crew:
            running = []
            for number, tree in enumerate(self._trees):
                push = self._start(crew, number, tree, whole=True, live=True)
                running.append(crew.add(push.carry))
                push.feed(TOP)
            crew.join()
        return sum(int(future.result()) for future in running)

    def poise(self, crew: Crew) -> list[Poised]:
        """Start the frozen pass of each tree as far as it goes without files; `go` does the rest."""
        poised = []
        for number, tree in enumerate(self._trees):
            whole = self._start(crew, number, tree, whole=True, live=False)
            listed = self._start(crew, number, tree, whole=False, live=False)
            poised.append(Poised(tree, whole, listed, crew.add(whole.carry)))
            crew.add(listed.carry)
        return poised

    def go(self, crew: Crew, poised: list[Poised]) -> None:
        """Nothing changes any more: copy."""
        mapped = [*self._mapped_live, *self._mapped()] if poised else []
        for one in poised:
            one.whole.feed(TOP)
            crew.add(self._feed_listed, one, mapped)

    def _feed_listed(self, one: Poised, mapped: list[str]) -> None:
        """After the whole pass: two that write the same file would each find it changed under them."""
        doubtful = fs_haul_subtree.doubtful(one.tree, self._trees, mapped, self._last_live)
        one.whole_done.result()
        LOG.debug("passed over %s", one.tree.path)
        one.listed.feed(doubtful)

    def _start(self, crew: Crew, number: int, tree: Tree, *, whole: bool, live: bool) -> Push:
        channel = self._channel(f"tree:{number}")
        push = Push(tree.path, channel, whole=whole, live=live, on_bytes=partial(self._stats.add, tree.kind))
        crew.stop_with(push.stop)
        return push
