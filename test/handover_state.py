"""What a state of the hand-over is, in words; and what the code is careful about, so that it can be left out."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

# Who carries the source's journal on: p.haul, its guard, p.haul --resolve, nobody.
HAUL, GUARD, RESOLVE, NOBODY = "haul", "guard", "resolve", ""
BEGUN, FROZEN, COMMITTED, HELD, RUNNING = "begun", "frozen", "committed", "held", "running"
DONE, UNDONE, LOST, NONE = "done", "undone", "lost", ""
SETTLED = (DONE, UNDONE, LOST)
RUNS, ENDED = "runs", "ended"  # of a copy, which may be FROZEN at the source, HELD at the target, NONE
MISSING, ALL, DEAD = "missing", "all", "dead"  # of the memory, as the target's pager has it
WAITS, DUE, GONE = "waits", "due", "gone"  # of a guard
SERVICE = "service"
MOST_MESSAGES = 3


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the code is careful about, each of which can be left out."""

    thaw_needs_word: bool = True  # after COMMIT the source thaws only where the target says that its copy is gone
    commit_first: bool = True  # COMMITTED is on disk before the release is asked for
    release_needs_held: bool = True  # the target lets nothing run that it has given up
    running_first: bool = True  # RUNNING is on disk before the tasks run
    released_stays: bool = True  # what was released is not undone
    gone_first: bool = True  # the target's tasks are gone before it says so
    end_needs_running: bool = True  # the source's copy ends only where the target's runs
    end_needs_memory: bool = True  # and needs nothing of it any more
    kept: bool = True  # what the target has given up stays on record there
    recovers: bool = True  # a service settles what one before it has left
    resolves: bool = True  # p.haul --resolve takes up what its p.haul has left
    end_first: bool = True  # whether memory is whole or lost is on disk before the pager goes, which knows it
    lost_is_told: bool = True  # that memory was lost is not taken for an end that was good
    force: bool = False


SOUND = Rules()


class State(NamedTuple):
    """Journal, copy and processes of the source and the target, memory, messages under way, faults still to come."""

    s_journal: str = BEGUN
    s_copy: str = RUNS
    who: str = HAUL
    at: str = "prepare"
    s_guard: str = WAITS
    t_journal: str = NONE
    t_copy: str = NONE
    up: bool = True
    session: bool = False
    seat: bool = False  # a connection speaks of the haul, as the target sees it
    t_guard: str = WAITS
    act: tuple[str, str, str] = ("", "", "")  # at the target: who is at what, and which request is answered then
    back: bool = False  # what was to be released had nobody who held it, and is taken back
    memory: str = MISSING
    post: bool = False  # released while memory is missing
    net: tuple[tuple[str, ...], ...] = ()
    faults: int = 0


class Step(NamedTuple):
    """`name` of what others can see: a record ("S:frozen"), an act upon a copy ("t:run"), a kill; else ""."""

    name: str
    fault: bool
    then: State
