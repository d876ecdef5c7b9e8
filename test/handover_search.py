"""Every state of handover_model.py that can be reached, held against what is promised of a hand-over."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from handover_model import steps
from handover_state import (
    ALL,
    BEGUN,
    COMMITTED,
    DEAD,
    DONE,
    ENDED,
    FROZEN,
    HELD,
    LOST,
    NONE,
    RUNNING,
    RUNS,
    SETTLED,
    SOUND,
    UNDONE,
    Rules,
    State,
)

# What is promised


def wrong(s: State) -> str:
    """Which promise the state breaks, or ""."""
    broken = {
        "two copies run": s.s_copy == RUNS and s.t_copy == RUNS,
        "both copies are gone": s.s_copy == ENDED and s.t_copy != RUNS,
        "it waits for memory that is gone": s.t_copy == RUNS and s.memory != ALL and s.s_copy != FROZEN,
        "memory was lost, and the copy of the source too": s.t_journal == LOST and s.s_copy == ENDED,
        "settled, and it does not run there": s.t_journal == DONE and s.t_copy != RUNS,
        "undone, and it does not run here": s.s_journal == UNDONE and s.s_copy != RUNS,
        "done, and it does not run there": s.s_journal == DONE and not (s.s_copy == ENDED and s.t_copy == RUNS),
        "given up, and a copy is there": s.t_journal == UNDONE and s.t_copy in (HELD, RUNS),
    }
    return next((name for name, is_so in broken.items() if is_so), "")


OPEN = (BEGUN, HELD, RUNNING, DONE)


def wrong_step(s: State, name: str) -> str:
    """Which promise the step breaks, or ""."""
    taken_back = s.back and s.t_copy == NONE
    if name == "s:thaw" and s.s_journal == COMMITTED and s.t_journal in OPEN and not taken_back:
        return "thawed after COMMIT without the target's word"
    if name == "t:gone" and s.t_copy == RUNS and s.memory != DEAD:
        return "what ran was undone"
    return ""


def good(s: State) -> bool:
    """An end: one copy runs and all is settled, or memory was lost and the copy of the source is there to go on."""
    if s.who:
        return False
    if s.s_journal == COMMITTED:
        return s.t_journal == LOST and s.s_copy == FROZEN
    one = (s.s_copy == RUNS) != (s.t_copy == RUNS)
    return one and s.s_journal in SETTLED and s.t_journal in (NONE, *SETTLED)


@dataclasses.dataclass
class Explored:
    """What a search has found. `wrong` is the first promise that breaks, and `path` leads there."""

    states: int = 0
    steps: int = 0
    wrong: str = ""
    path: tuple[str, ...] = ()
    moves: set[tuple[str, str, str]] = dataclasses.field(default_factory=set)  # of journals: side, from, to
    names: set[str] = dataclasses.field(default_factory=set)


def search(rules: Rules = SOUND, *, faults: int = 3, ends: bool = True) -> Explored:
    """Visit every state that can be reached with so many faults, breadth first: a path to what is wrong is a shortest.

    `ends`: from each state that was reached there must be a way, without more faults, to a good end.
    """
    found = Explored()
    begin = [State(faults=faults, post=post) for post in (False, True)]
    number = {s: at for at, s in enumerate(begin)}
    order, came = list(begin), [(-1, "")] * len(begin)
    before: list[list[int]] = [[] for _ in begin]  # by which steps without a fault it is reached
    for at, s in enumerate(order):
        for name, fault, then in steps(s, rules):
            found.steps += 1
            known = number.get(then)
            if known is None:
                known = number[then] = len(order)
                order.append(then)
                came.append((at, name))
                before.append([])
                why = wrong(then)
                if why:
                    return concluded(found, order, came, known, why)
            if not fault:
                before[known].append(at)
            if name:
                note(found, s, name, then)
                why = wrong_step(s, name)
                if why:
                    return concluded(found, order, came, known, why)
    found.states = len(order)
    stuck = next(iter(endless(order, before)), None) if ends else None
    return found if stuck is None else concluded(found, order, came, stuck, "nothing leads on from here")


def note(found: Explored, s: State, name: str, then: State) -> None:
    found.names.add(name)
    if name[:2] == "S:":
        found.moves.add(("source", s.s_journal, then.s_journal))
    elif name[:2] == "T:":
        found.moves.add(("target", s.t_journal, then.t_journal))


def endless(order: list[State], before: list[list[int]]) -> Iterator[int]:
    """The states from which no good end can be reached."""
    reaches = [good(s) for s in order]
    todo = [at for at, is_so in enumerate(reaches) if is_so]
    while todo:
        for earlier in before[todo.pop()]:
            if not reaches[earlier]:
                reaches[earlier] = True
                todo.append(earlier)
    return (at for at, is_so in enumerate(reaches) if not is_so)


def concluded(found: Explored, order: list[State], came: list[tuple[int, str]], at: int, why: str) -> Explored:
    """The search ends there."""
    path = [f"{order[at]}"]
    while at >= 0:
        at, name = came[at]
        path.append(name)
    found.states, found.wrong, found.path = len(order), why, tuple(word for word in reversed(path) if word)
    return found
