"""The passes over a haul's trees: live ones until little is left, and one frozen one poised beforehand.

The first looks at everything. Those after it are told by a watch what has changed since the one before
began, and look at nothing else; where the watch is in doubt they look at everything, and the log says why.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from phaul import fs_haul_subtree
from phaul.connection import Connection
from phaul.fs_changes import Feed, Plan
from phaul.fs_haul import LISTED, MADE, PARTIAL, TOP, VANISHED, WHOLE, Push
from phaul.fs_watch import Changes, Doubt, Watch
from phaul.htype import Tree
from phaul.mstats import Stats
from phaul.tasks import WORKERS, Crew
from phaul.tasks_seen import Written

LOG = logging.getLogger("phaul.fs")
MAX_PASSES = 4
SMALL_PASS = 1 << 20
INCOMPLETE = "a pass over it was not complete"


class Followed:
    """A tree, the watch over it, and when (time.time()) the last live pass over it began."""

    def __init__(self, number: int, tree: Tree) -> None:
        self.number, self.tree = number, tree
        self.since = time.time()
        self.watch = Watch(tree.path, tree.seen)

    @property
    def moment(self) -> float:
        """What has changed before it is over there, as far as dates can tell."""
        return self.since - fs_haul_subtree.TICK_SECONDS

    def take(self) -> Changes | Doubt:
        """What has changed since the last time, or since the watch began; after doubt another watch has begun."""
        try:
            return self.watch.take()
        except Doubt as why:
            self.watch.close()
            self.watch = Watch(self.tree.path, self.tree.seen)
            return why

    def again(self, changes: Changes | Doubt) -> None:
        """A pass over them was not complete: the next `take` gives them too."""
        if isinstance(changes, Changes):
            self.watch.put_back(changes)
        else:
            self.watch.distrust(INCOMPLETE)

    def look_again(self, whole: Push) -> None:
        """Where it could not copy something: nothing tells what."""
        if whole.partial:
            self.watch.distrust(INCOMPLETE)

    def settle(self) -> Changes | Doubt:
        """The same for the last time: nothing changes any more."""
        self.watch.settle()
        try:
            return self.watch.take()
        except Doubt as why:
            return why


class Again:
    """What an iterator gives, from its beginning each time, and none of it kept: names may be many."""

    def __init__(self, begin: Callable[[], Iterator[str]]) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[str]:
        return self._begin()


@dataclass(frozen=True)
class Going:
    """A push that carries what it is fed."""

    kind: tuple[str, ...]
    push: Push
    done: Future[int]


@dataclass(frozen=True)
class Poised:
    """A pass over one tree, greeted and waiting; `whole` where it is known by then that all must be looked at."""

    followed: Followed
    made: Going
    listed: Going
    whole: Going | None
    live: bool

    @property
    def goings(self) -> list[Going]:
        return [going for going in (self.made, self.listed, self.whole) if going]


class Passes:
    """`channel` opens a bulk channel by its name; "tree:0" is the first tree's. `written` is Source.written."""

    def __init__(
        self,
        trees: list[Tree],
        channel: Callable[[str], Connection],
        written: Callable[[], Written],
        stats: Stats,
    ) -> None:
        self._trees, self._channel, self._written, self._stats = trees, channel, written, stats
        self._followed: list[Followed] = []
        self._mapped: frozenset[str] = frozenset()
        self._carriers = ThreadPoolExecutor(WORKERS, thread_name_prefix="tree")
        self._idle: list[Push] = []

    def close(self) -> None:
        """End the watches, and what `dismiss` ends."""
        self.dismiss()
        self._carriers.shutdown(cancel_futures=True)
        for followed in self._followed:
            followed.watch.close()

    def dismiss(self) -> None:
        """End what was poised and had nothing to copy. Not during the downtime: it would cost some of that."""
        while self._idle:
            self._idle.pop().stop()

    def sync(self) -> None:
        """Live passes until one moves little, or no less than the one before."""
        before = self._first_pass()
        for _ in range(MAX_PASSES - 1):
            if before < SMALL_PASS:
                return
            sent = self._live_pass()
            if before <= sent:
                return
            before = sent

    def _first_pass(self) -> int:
        for number, tree in enumerate(self._trees):
            self._followed.append(Followed(number, tree))
        self._look()
        with Crew() as crew:
            going = [self._start(crew, followed, WHOLE, live=True, last=True) for followed in self._followed]
            for one in going:
                one.push.feed(TOP)
                crew.add(one.done.result)
            crew.join()
        for followed, one in zip(self._followed, going, strict=True):
            followed.look_again(one.push)
        return sum(one.done.result() for one in going)

    def _live_pass(self) -> int:
        """What changes under it is seen, and left to the next."""
        began = time.time()
        changes = [followed.take() for followed in self._followed]
        written = self._look()
        with Crew() as crew:
            poised = [
                self._poise(crew, followed, doubt=isinstance(seen, Doubt), live=True)
                for followed, seen in zip(self._followed, changes, strict=True)
            ]
            for one, seen in zip(poised, changes, strict=True):
                crew.add(self._feed, crew, one, seen, written)
            crew.join()
        for one, seen in zip(poised, changes, strict=True):
            one.followed.since = began
            if not (one.made.push.complete and one.listed.push.complete):
                one.followed.again(seen)
        self.dismiss()
        return sum(going.done.result() for one in poised for going in one.goings if not going.push.idle)

    def _look(self) -> Written:
        """What tasks may write to without an event. It comes after the watch has begun, or taken, and before a pass."""
        written = self._written() if self._trees else Written()
        self._mapped |= written.mapped
        for followed in self._followed:
            if lost := list(fs_haul_subtree.names_in(followed.tree, self._trees, written.nameless)):
                followed.watch.distrust(f"what a task has open as {lost[0]!r} has another name now")
        return written

    def poise(self, crew: Crew) -> list[Poised]:
        """Start the frozen pass of each tree as far as it goes without files; `go` does the rest."""
        return [self._poise(crew, followed, doubt=followed.watch.doubtful, live=False) for followed in self._followed]

    def go(self, crew: Crew, poised: list[Poised]) -> None:
        """Nothing changes any more: copy."""
        written = self._look()
        for one in poised:
            crew.add(self._feed_last, crew, one, written)

    def _feed_last(self, crew: Crew, one: Poised, written: Written) -> None:
        self._feed(crew, one, one.followed.settle(), written)

    def _poise(self, crew: Crew, followed: Followed, *, doubt: bool, live: bool) -> Poised:
        made, listed = (self._start(crew, followed, kind, live=live) for kind in (MADE, LISTED))
        whole = self._start(crew, followed, WHOLE, live=live) if doubt else None
        return Poised(followed, made, listed, whole, live)

    def _feed(self, crew: Crew, one: Poised, changes: Changes | Doubt, written: Written) -> None:
        """One after another: two that write the same file would each find it changed under them."""
        try:
            feed = self._plan(one.followed, changes, written)
        except (Doubt, OSError) as why:
            LOG.info("all of %s is looked at: %s", one.followed.tree.path, why)
            if isinstance(changes, Changes):
                one.followed.watch.put_back(changes)
            whole = one.whole or self._start(crew, one.followed, WHOLE, live=one.live)
            self._carry(crew, one, whole, TOP)
            feed = self._looked_through(one.followed)
        self._carry(crew, one, one.made, feed.made)
        self._carry(crew, one, one.listed, feed.listed)
        LOG.debug("passed over %s", one.followed.tree.path)

    def _carry(self, crew: Crew, one: Poised, going: Going, names: Iterable[str]) -> None:
        """Feed it and wait; once more where no pass does it for certain. rsync stumbles over some things, but gets up.

        (A directory there that here is a file with several names: it asks the file for what only a directory has.)
        """
        if not names:
            going.push.idle = True
            self._idle.append(going.push)
            return
        going.push.feed(names)
        going.done.result()
        if going.push.partial and (going.kind is WHOLE or not one.live):
            going = self._start(crew, one.followed, going.kind, live=one.live, last=True)
            going.push.feed(names)
            going.done.result()
        if going.kind is WHOLE:
            one.followed.look_again(going.push)

    def _plan(self, followed: Followed, changes: Changes | Doubt, written: Written) -> Feed:
        """Raises Doubt, OSError."""
        if isinstance(changes, Doubt):
            raise changes
        opened = fs_haul_subtree.touched_of(followed.tree, self._trees, written.opened, followed.moment)
        return Plan(followed.tree.path, changes).feed([*self._mapped_in(followed.tree), *opened])

    def _looked_through(self, followed: Followed) -> Feed:
        """What sizes and dates have not told."""
        top, moment = followed.tree.path, followed.moment
        return Feed(Again(lambda: fs_haul_subtree.touched_since(top, moment)), self._mapped_in(followed.tree))

    def _mapped_in(self, tree: Tree) -> list[str]:
        return list(fs_haul_subtree.files_in(tree, self._trees, self._mapped))

    def _start(self, crew: Crew, followed: Followed, kind: tuple[str, ...], *, live: bool, last: bool = False) -> Going:
        """`live`: what vanishes under it is forgiven. Unless it is the `last`, so is what it could not copy."""
        channel, tree = self._channel(f"tree:{followed.number}"), followed.tree
        forgiven = (*((VANISHED,) if live else ()), *(() if last else (PARTIAL,)))
        push = Push(tree.path, channel, kind, forgiven=forgiven, on_bytes=partial(self._stats.add, tree.kind))
        crew.stop_with(push.stop)
        return Going(kind, push, self._carriers.submit(push.carry))
