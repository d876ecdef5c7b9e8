"""The hand-over as a state machine: two journals, two copies, what carries them on, and a network that fails.

`steps` says what can happen next in a state; handover_search.py visits all that can be reached. A step is atomic
where the code is: one record of a journal on disk, one act upon a copy, one message taken. Between any two of them
any process may be killed, and any message lost, doubled or overtaken.

A kill leaves the tasks alive, as SIGKILL does: what a power cut takes with it is another matter, which
test_vm_faults.py shows. `--force` is not among the steps: with it the operator answers for what no journal can
know, and `Rules(force=True)` shows that it can make two copies run.
"""

from __future__ import annotations

from collections.abc import Iterator

from handover_state import (
    ALL,
    BEGUN,
    COMMITTED,
    DEAD,
    DONE,
    DUE,
    ENDED,
    FROZEN,
    GONE,
    GUARD,
    HAUL,
    HELD,
    LOST,
    MISSING,
    MOST_MESSAGES,
    NOBODY,
    NONE,
    RESOLVE,
    RUNNING,
    RUNS,
    SERVICE,
    SETTLED,
    SOUND,
    UNDONE,
    WAITS,
    Rules,
    State,
    Step,
)

IDLE = ("", "", "")
Found = Iterator[Step]


def steps(s: State, rules: Rules = SOUND) -> Found:
    """All that can happen next."""
    if s.who:
        yield from source(s, rules)
    else:
        yield from takers(s, rules)
    yield from pages(s)
    if s.act != IDLE:
        yield from acting(s, rules)
    else:
        yield from target(s, rules)
    if not s.up:
        yield Step("start:target", False, s._replace(up=True, t_guard=WAITS))
    if s.faults:
        yield from faults(s._replace(faults=s.faults - 1))


# The source


def source(s: State, rules: Rules) -> Found:
    """p.haul, or who settles what it left."""
    if s.at.startswith("await-"):
        yield from waiting(s, rules)
        return
    plain = {
        "freeze": ("s:freeze", {"s_copy": FROZEN, "at": "frozen"}),
        "frozen": ("S:frozen", {"s_journal": FROZEN, "at": "restore"}),
        "end": ("s:end", {"s_copy": ENDED, "at": "done"}),
        "thaw": ("" if s.s_copy == RUNS else "s:thaw", {"s_copy": RUNS, "at": "undone"}),
    }
    if s.at in plain:
        name, changes = plain[s.at]
        yield Step(name, False, s._replace(**changes))
    elif s.at in ("commit", "committed"):
        then = "release" if rules.commit_first or s.at == "committed" else "await-release"
        yield Step("S:committed", False, s._replace(s_journal=COMMITTED, at=then))
    elif s.at == "memory" and (s.post or s.memory == ALL):
        yield from after_memory(s, rules)
    elif s.at == "memory" and (s.memory == DEAD or not s.seat):
        yield Step("", False, s._replace(at="thaw"))
    elif s.at == "done":
        yield Step("S:done", False, over(s._replace(s_journal=DONE)))
    elif s.at == "undone":
        yield Step("S:undone", False, s._replace(s_journal=UNDONE, at="discard"))
    elif s.at == "discard":
        yield Step("", False, over(sent(s, "discard")))
        yield Step("", False, over(s))
    elif s.at == "leaves":
        # Its guard leaves with it: the haul is decided.
        yield Step("", False, s._replace(who=NOBODY, at="", s_guard=GONE))
    else:
        yield from asking(s)


def after_memory(s: State, rules: Rules) -> Found:
    if rules.commit_first:
        yield Step("", False, s._replace(at="commit"))
    else:
        yield Step("", False, sent(s, "release")._replace(at="committed"))


def asking(s: State) -> Found:
    """A request goes out; where nobody listens after COMMIT, it is in doubt."""
    if s.up and len(s.net) < MOST_MESSAGES:
        yield Step("", False, sent(s, s.at)._replace(at=f"await-{s.at}"))
    if not s.up:
        yield Step("", False, unanswered(s))


def sent(s: State, kind: str) -> State:
    kind = "release" if kind == "release-again" else kind
    return s._replace(net=tuple(sorted((*s.net, (kind,))))) if s.up and len(s.net) < MOST_MESSAGES else s


def over(s: State) -> State:
    """What the process had to do is done."""
    return s._replace(at="leaves", net=without_answers(s))


def without_answers(s: State) -> tuple[tuple[str, ...], ...]:
    return tuple(message for message in s.net if message[0] != "answer")


def unanswered(s: State) -> State:
    """The connection is lost, and closed: no answer comes on it any more."""
    s = s._replace(net=without_answers(s))
    if s.at.removeprefix("await-") in ("prepare", "restore"):
        return s._replace(at="thaw")
    if s.at in ("release", "await-release"):
        return s._replace(at="ask")
    return over(s)


def waiting(s: State, rules: Rules) -> Found:
    """For the answer to one request."""
    kind = s.at.removeprefix("await-")
    asked = "release" if kind == "release-again" else kind
    answers = [message for message in s.net if message[0] == "answer"]
    for answer in answers:
        yield Step("", False, answered(s._replace(net=without_answers(s)), kind, *answer[1:], rules=rules))
    awaited = bool(answers) or (asked,) in s.net or s.act[2] == asked
    if not awaited:
        yield Step("", False, unanswered(s))
        if not rules.thaw_needs_word and s.s_journal == COMMITTED:
            yield Step("", False, s._replace(at="thaw"))
    elif s.faults:
        yield Step("", True, unanswered(s._replace(faults=s.faults - 1)))


def answered(s: State, kind: str, said: str, memory: str, *, rules: Rules) -> State:
    """What the source does about an answer."""
    if kind in ("prepare", "restore"):
        return s._replace(at={"prepare": "freeze", "restore": "memory"}[kind] if said == "ok" else "thaw")
    if said == UNDONE:
        return s._replace(at="thaw")
    if said == HELD and rules.end_needs_running:
        return s._replace(at="release-again")
    if said in (RUNNING, DONE, HELD):
        if memory == DEAD:
            return over(s)
        return s._replace(at="complete" if memory == MISSING and rules.end_needs_memory else "end")
    if said == LOST and not rules.lost_is_told:
        return s._replace(at="end")
    return s._replace(at="ask") if kind == "release" and said != LOST else over(s)


def takers(s: State, rules: Rules) -> Found:
    """Nobody carries the source's journal on: its guard may, or p.haul --resolve."""
    settled = s.s_journal in SETTLED
    if s.s_guard == DUE and settled:
        yield Step("", False, s._replace(s_guard=GONE))
    if settled:
        return
    begin = "thaw" if s.s_journal in (BEGUN, FROZEN) else "ask"
    if s.s_guard == DUE:
        yield Step("", False, s._replace(who=GUARD, at=begin))
    if rules.resolves:
        yield Step("", False, s._replace(who=RESOLVE, at=begin))
    if s.s_journal == COMMITTED and (rules.force or s.t_journal == LOST):
        # Where memory was lost the target has said so, and nothing but --force lets the copy here go on.
        yield Step("force", rules.force, s._replace(who=RESOLVE, at="thaw"))


# The memory


def pages(s: State) -> Found:
    """It comes while a process at the source serves it, from frozen tasks, to a pager that lives."""
    serving = (s.who == HAUL and s.t_copy in (HELD, RUNS)) or s.at.removeprefix("await-") == "complete"
    if s.memory == MISSING and serving and s.s_copy == FROZEN and s.t_copy in (HELD, RUNS):
        yield Step("", False, s._replace(memory=ALL))


# The target


def acting(s: State, rules: Rules) -> Found:
    """Whoever has the journal's lock goes on with what it is at."""
    owner, what, asked = s.act
    if what == "hold":
        yield Step("t:hold", False, s._replace(t_copy=HELD, act=(owner, "held", asked)))
    elif what == "held":
        yield Step("T:held", False, answer(s._replace(t_journal=HELD), "ok"))
    elif what == "run":
        name = "" if s.t_copy == RUNS else "t:run"
        then = "settle" if rules.running_first else "late"
        yield Step(name, False, s._replace(t_copy=RUNS, act=(owner, then, asked)))
        if s.faults and s.t_copy == HELD and s.t_journal == RUNNING:
            # Who held them has died this very moment: they have not run.
            yield Step("", True, s._replace(back=True, act=(owner, "gone", asked), faults=s.faults - 1))
    elif what == "late":
        yield Step("T:running", False, s._replace(t_journal=RUNNING, act=(owner, "settle", asked)))
    elif what == "settle":
        yield from settling(answer(s, s.t_journal), owner)
    elif what == "gone":
        name = "" if s.t_copy in (NONE, ENDED) else "t:gone"
        yield Step(name, False, s._replace(t_copy=NONE, act=(owner, "undone", asked)))
    elif what == "undone":
        yield Step("T:undone", False, answer(s._replace(t_journal=UNDONE if rules.kept else NONE), UNDONE))
    elif what == "word":
        yield Step("T:undone", False, answer(s._replace(t_journal=UNDONE), UNDONE)._replace(act=(owner, "gone", "")))
    elif what == "ended":
        name = "" if s.t_copy == ENDED else "t:gone"
        yield Step(name, False, s._replace(t_copy=ENDED, act=(owner, "leave-lost", asked)))
    elif what.startswith("leave"):
        yield from leaving(s, rules)
    elif what in (LOST, DONE):
        yield Step(f"T:{what}", False, answer(s._replace(t_journal=what), what))


def answer(s: State, said: str) -> State:
    """The act is over; who asked for it, and waits still, is told."""
    asked = s.act[2]
    kind = s.at.removeprefix("await-")
    waits = s.at.startswith("await-") and ("release" if kind == "release-again" else kind) == asked.rstrip("!")
    s = s._replace(act=IDLE)
    if not (asked and waits) or len(s.net) >= MOST_MESSAGES or any(message[0] == "answer" for message in s.net):
        return s
    said = "failed" if asked.endswith("!") else said
    return s._replace(net=tuple(sorted((*s.net, ("answer", said, s.memory)))))


def settling(s: State, owner: str) -> Found:
    """What was released is settled once no memory is missing."""
    then = {ALL: "leave-done", DEAD: "ended"}.get(s.memory)
    yield Step("", False, s._replace(act=(owner, then, "")) if then else s)


def leaving(s: State, rules: Rules) -> Found:
    """The pager goes, which alone knows of the memory; without a record of what it was, that looks like the other."""
    owner, what, asked = s.act
    memory = s.memory if rules.end_first else {ALL: DEAD, DEAD: ALL}[s.memory]
    yield Step("", False, s._replace(memory=memory, act=(owner, what.removeprefix("leave-"), asked)))


def target(s: State, rules: Rules) -> Found:
    """Nobody has the journal's lock, or its session is at rest."""
    if s.up:
        for message in set(s.net):
            if message[0] != "answer":
                rest = list(s.net)
                rest.remove(message)
                yield from request(s._replace(net=tuple(rest)), message[0], rules)
    open_ = s.t_journal not in (NONE, *SETTLED)
    if s.session and open_:
        if s.back:
            yield Step("", False, s._replace(act=(SERVICE, "gone", "")))
        elif s.t_journal == RUNNING and s.memory != MISSING:
            yield from settling(s, SERVICE)
        elif not s.seat and (s.t_journal != RUNNING or not rules.released_stays):
            yield Step("", False, s._replace(act=(SERVICE, "gone", "")))
    if s.session and not s.seat and (not open_ or s.t_journal == RUNNING):
        yield Step("", False, s._replace(session=False))
    if not s.session and open_:
        for owner in [SERVICE] * s.up + [GUARD] * (s.t_guard == DUE):
            yield from recovering(s, owner, "", rules)
    if s.t_guard == DUE and not open_:
        yield Step("", False, s._replace(t_guard=GONE))
    if s.seat and s.who == NOBODY:
        yield Step("", False, s._replace(seat=False))


def recovering(s: State, owner: str, asked: str, rules: Rules) -> Found:
    """What a service that is gone has left."""
    if not rules.recovers:
        yield from [Step("", False, answer(s._replace(act=(owner, "", asked)), s.t_journal))] * bool(asked)
    elif s.t_journal in (BEGUN, HELD) or s.back or not rules.released_stays:
        yield Step("", False, s._replace(act=(owner, "gone" if rules.gone_first else "word", asked)))
    elif s.t_copy == HELD or asked:
        yield Step("", False, s._replace(act=(owner, "run", asked)))
    elif s.memory != MISSING:
        yield from settling(s, owner)


def request(s: State, kind: str, rules: Rules) -> Found:
    """The service takes a request."""
    s = s._replace(act=(SERVICE, "", kind))
    here = s.session and s.seat
    if kind == "prepare" and s.t_journal == NONE:
        begun = s._replace(t_journal=BEGUN, session=True, seat=True)
        yield Step("T:begun", False, answer(begun, "ok"))
    elif kind == "restore" and here and s.t_journal == BEGUN:
        yield Step("", False, s._replace(act=(SERVICE, "hold", kind)))
        if s.faults:
            yield Step("", True, answer(s._replace(faults=s.faults - 1), "failed"))
    elif kind == "release":
        yield from releasing(s, here=here, rules=rules)
    elif kind in ("ask", "complete", "discard"):
        yield from telling(s, kind, rules)
    else:
        yield Step("", False, answer(s, "failed"))


def releasing(s: State, *, here: bool, rules: Rules) -> Found:
    held = s.t_journal == HELD or (not rules.release_needs_held and s.t_journal in (BEGUN, UNDONE))
    if here and held and s.memory == DEAD:
        yield Step("", False, s._replace(act=(SERVICE, "gone", "release!")))
    elif here and held:
        if rules.running_first:
            yield Step("T:running", False, s._replace(t_journal=RUNNING, act=(SERVICE, "run", "release")))
        else:
            yield Step("", False, s._replace(act=(SERVICE, "run", "release")))
        if s.faults:
            # What is not ready to be released is given up.
            yield Step("", True, s._replace(act=(SERVICE, "gone", "release"), faults=s.faults - 1))
    elif here and s.back and s.t_journal == RUNNING:
        yield Step("", False, s._replace(act=(SERVICE, "gone", "release")))
    elif here and s.t_journal in (RUNNING, DONE):
        yield Step("", False, answer(s, s.t_journal))
    else:
        yield Step("", False, answer(s, "failed"))


def telling(s: State, kind: str, rules: Rules) -> Found:
    """How it stands, or that it is off; what no session carries on is settled first."""
    if not s.session and s.t_journal not in (NONE, *SETTLED):
        yield from recovering(s, SERVICE, kind, rules)
        return
    s = s._replace(seat=s.seat or s.session)
    if kind == "discard" and s.session and s.t_journal in (BEGUN, HELD):
        yield Step("", False, s._replace(act=(SERVICE, "gone", "")))
    else:
        yield Step("", False, answer(s, told(s)))


def told(s: State) -> str:
    """The journal's state, as the source is to understand it."""
    if s.back and s.t_journal == RUNNING:
        return HELD if s.t_copy == HELD else UNDONE
    return s.t_journal


# What breaks


def faults(s: State) -> Found:
    """One fault less may come after each."""
    if s.who in (HAUL, RESOLVE):
        guard = DUE if s.who == HAUL and s.s_guard == WAITS else s.s_guard
        yield Step("kill:source", True, s._replace(who=NOBODY, at="", s_guard=guard, net=without_answers(s)))
    if s.who == GUARD:
        yield Step("kill:source-guard", True, s._replace(who=NOBODY, at="", s_guard=GONE, net=without_answers(s)))
    elif s.s_guard != GONE:
        yield Step("kill:source-guard", True, s._replace(s_guard=GONE))
    if s.up:
        # Its connections are reset: what it has said may still come, what it has not read is gone.
        yield Step("kill:target", True, dead(s))
    if s.t_guard != GONE:
        act = IDLE if s.act[0] == GUARD else s.act
        yield Step("kill:target-guard", True, s._replace(t_guard=GONE, act=act))
    if s.seat and s.who:
        yield Step("", True, s._replace(seat=False))
    for message in set(s.net):
        rest = list(s.net)
        rest.remove(message)
        yield Step("", True, s._replace(net=tuple(rest)))
        if len(s.net) < MOST_MESSAGES and message[0] != "answer":
            yield Step("", True, s._replace(net=tuple(sorted((*s.net, message)))))
    if s.memory == MISSING and s.t_copy in (HELD, RUNS):
        yield Step("kill:pager", True, s._replace(memory=DEAD))


def dead(s: State) -> State:
    """The service is killed."""
    guard = DUE if s.t_guard == WAITS else s.t_guard
    act = IDLE if s.act[0] == SERVICE else s.act
    said = tuple(message for message in s.net if message[0] == "answer")
    return s._replace(up=False, session=False, seat=False, t_guard=guard, act=act, net=said)
