"""The address spaces of restored tasks, and what of their memory is still to come.

One Task for each task that was frozen; it has one Space, and one more for each fork that happened
before all of its memory was there. A frozen task's page goes to every space that still lacks it.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from phaul import uffd
from phaul.errors import HaulFailed
from phaul.pages_wire import MAX_PAGES, PAGE, Wish
from phaul.spans import Span, Spans

AROUND_FAULT = 16 * PAGE
CHANGE_SECONDS, TICK_MS = 60, 1


@dataclass(eq=False)
class Space:
    """A userfaultfd, and the spans of its process that are missing."""

    descriptor: int
    task: Task
    missing: Spans
    gone: bool = False

    def end(self) -> None:
        """Its process ended: nothing is missing any more."""
        self.gone, self.missing = True, Spans()


@dataclass(eq=False)
class Task:
    """`todo` is what nobody has asked the source for yet, by the frozen task's addresses; `at` where to go on."""

    pid: int
    todo: Spans
    at: int = 0
    spaces: list[Space] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """Bytes; what several spaces lack counts once for each."""
        return sum(space.missing.size for space in self.spaces)

    def next_wish(self) -> Wish | None:
        span = self.todo.take(MAX_PAGES * PAGE, self.at)
        if not span:
            return None
        self.at = span[1]
        return Wish(self.pid, span[2], (span[1] - span[0]) // PAGE)

    @property
    def coming(self) -> int:
        """Bytes that nobody has asked for yet."""
        return self.todo.size if self.missing else 0

    def taken(self, wish: Wish) -> None:
        """Somebody asks for it; the bulk goes on behind it."""
        self.todo.cut(wish.start, wish.end)
        self.at = wish.end

    def ask_again(self, wish: Wish) -> None:
        """The answer to the wish will not come: what is still lacking is to do again."""
        self.todo.cut(wish.start, wish.end)
        lacking = Spans()
        for space in self.spaces:
            for start, end, source in space.missing.from_source(wish.start, wish.end):
                lacking.cut(source, source + end - start)
                lacking.add([(source, source + end - start, source)])
        self.todo.add(lacking)


def new_task(pid: int, descriptor: int, spans: Iterable[Span]) -> Task:
    missing = Spans(spans)
    task = Task(pid, missing.copy())
    task.spaces.append(Space(descriptor, task, missing))
    return task


def handle(space: Space, event: uffd.Event) -> Wish | Space | None:
    """Follow what the process did: the wish that a fault makes urgent, or the space that a fork made."""
    if event.kind == uffd.PAGEFAULT:
        return _fault(space, event.start)
    if event.kind == uffd.FORK:
        child = Space(event.start, space.task, space.missing.copy())
        os.set_blocking(child.descriptor, False)
        space.task.spaces.append(child)
        return child
    if event.kind == uffd.REMAP:
        space.missing.move(event.start, event.end, event.to)
    elif event.kind in (uffd.REMOVE, uffd.UNMAP):
        if event.kind == uffd.REMOVE:
            uffd.forget(space.descriptor, event.start, event.end)
        space.missing.cut(event.start, event.end)
    else:
        raise HaulFailed(
            f"The kernel reports {event.kind:#x} of a task's memory, which is not known here.", code="pages"
        )
    return None


def _fault(space: Space, address: int) -> Wish | None:
    """The page that is waited for, and what is missing right behind it."""
    span = space.missing.at(address)
    if span is None:
        _zero(space, address)
        return None
    start, end, source = span
    length = min(end - address, AROUND_FAULT)
    return Wish(space.task.pid, source + address - start, length // PAGE)


def fill(task: Task, wish: Wish, buffer: int) -> list[tuple[Space, uffd.Event]]:
    """Put what is at `buffer` into every space that lacks it; events that came first and are still to be handled.

    `buffer` is an address in our memory, of the wish's first page. Where there are any, call it again when they are.
    """
    for space in task.spaces:
        for start, end, source in space.missing.from_source(wish.start, wish.end):
            try:
                events = _copy(space.descriptor, buffer + source - wish.start, start, end - start)
            except uffd.Gone:
                space.end()
                break
            if events:
                return [(space, event) for event in events]
            space.missing.cut(start, end)
    return []


def _copy(descriptor: int, buffer: int, start: int, length: int) -> list[uffd.Event]:
    """Fill the range; the events that came first, and it is to be done again.

    There may be none to come though the task changes: then its thread has yet to be woken from the last one.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    until = time.monotonic() + CHANGE_SECONDS
    while time.monotonic() < until:
        try:
            uffd.copy(descriptor, buffer, start, length)
            return []
        except uffd.Changing:
            if poll.poll(TICK_MS) and (events := uffd.events(descriptor)):
                return events
    raise HaulFailed("A task's memory changes, and the kernel does not say how.", code="pages")


def _zero(space: Space, address: int) -> None:
    try:
        uffd.zero(space.descriptor, address)
    except uffd.Gone:
        space.end()
    except uffd.Changing:
        # It faults again, behind the event that comes first.
        uffd.wake(space.descriptor, address, PAGE)
