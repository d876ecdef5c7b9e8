"""What the workers do, struck at any point, is what the model of the hand-over says that they may do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import handover_search
import pytest
from handover_plays import Play, Stage, Strike, promised, refused
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

RECORDS, ACTS, CALLS = 12, 4, 8


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("stage")) as running:
        yield running


def played(stage: Stage, play: Play) -> list[str]:
    events = stage.play(play)
    assert promised(events), events
    assert refused(events, play.mode) == "", (play, events)
    return events


def record(moment: str, number: int) -> str:
    return f"torn={number}" if moment == "torn" else f"{moment}=phaul.journal:Journal._write#{number}"


def state(name: str) -> str:
    return f"state={name}"


WHOLE = ["T:begun", "s:freeze", "S:frozen", "t:hold", "T:held", "S:committed", "T:running", "t:run"]
PAGER_DIES: Strike = ("after=handover_copies:act#2", ("pager",))
# What is struck when, and all that it must come to, in this order.
TOLD: dict[str, tuple[Play, list[str]]] = {
    "nothing": (Play(), [*WHOLE, "s:end", "S:done"]),
    "nothing, post-copy": (Play("postcopy"), [*WHOLE, "s:end", "S:done"]),
    "p.haul, frozen": (
        Play(strikes={"source": ((state("frozen"), ("source",)),)}),
        ["S:frozen", "kill:source", "s:thaw", "S:undone"],
    ),
    "p.haul and its guard, committed": (
        Play(strikes={"source": ((state("committed"), ("source-guard", "source")),)}),
        ["S:committed", "kill:source-guard", "kill:source"],
    ),
    "p.haul, committed, the target being patient": (
        Play(grace=60, strikes={"source": ((state("committed"), ("source",)),)}),
        ["S:committed", "kill:source", "T:running", "t:run", "s:end", "S:done"],
    ),
    "the service, the release written down and not begun": (
        Play(strikes={"target": ((state("running"), ("target",)),)}),
        ["T:running", "kill:target", "t:run", "T:done", "start:target", "s:end", "S:done"],
    ),
    "the service and its guard, the release written down": (
        Play(strikes={"target": ((state("running"), ("target-guard", "target")),)}),
        ["T:running", "kill:target-guard", "kill:target", "start:target", "t:run", "s:end"],
    ),
    "all of them, the release written down": (
        Play(strikes={"target": ((state("running"), ("source-guard", "source", "target-guard", "target")),)}),
        ["T:running", "kill:source", "kill:target", "start:target", "t:run", "s:end"],
    ),
    "the service, half of the release written down": (
        Play(strikes={"target": ((record("torn", 6), ("target",)),)}),
        ["T:held", "S:committed", "kill:target", "t:gone", "T:undone", "start:target", "s:thaw", "S:undone"],
    ),
    "p.haul, half of COMMIT written down": (
        Play(grace=60, strikes={"source": ((record("torn", 7), ("source",)),)}),
        ["T:held", "kill:source", "s:thaw", "S:undone", "t:gone", "T:undone"],
    ),
    "the pager, before the release": (
        Play("postcopy", strikes={"target": ((state("held"), ("pager",)),)}),
        ["T:held", "kill:pager", "s:thaw", "S:undone", "T:undone"],
    ),
    "the pager, after the release": (
        Play("postcopy", strikes={"target": (PAGER_DIES,)}),
        ["t:run", "kill:pager", "t:gone", "T:lost"],
    ),
    "who holds it, before the release": (
        Play(strikes={"target": ((state("held"), ("holder",)),)}),
        ["T:held", "s:thaw", "S:undone"],
    ),
    "who holds it, as the release is written down": (
        Play(strikes={"target": ((state("running"), ("holder",)),)}),
        ["S:committed", "T:running", "t:gone", "T:undone", "s:thaw", "S:undone"],
    ),
    "who holds it, and the service, as the release is written down": (
        Play(strikes={"target": ((state("running"), ("holder", "target")),)}),
        ["S:committed", "T:running", "kill:target", "t:gone", "T:undone", "s:thaw", "S:undone"],
    ),
    "the service, the pager gone": (
        Play(strikes={"target": (("after=phaul.pages_target:leave", ("target-guard", "target")),)}),
        ["t:run", "kill:target", "start:target", "T:done"],
    ),
    "the service, the pager of tasks that were lost gone": (
        Play("postcopy", strikes={"target": (PAGER_DIES, ("after=phaul.pages_target:leave", ("target",)))}),
        ["t:run", "kill:pager", "t:gone", "kill:target", "T:lost"],
    ),
    "the link, committed": (
        Play(grace=60, strikes={"source": ((state("committed"), ("cut",)),)}),
        ["S:committed", "T:running", "t:run", "s:end", "S:done"],
    ),
    "the link, committed, the target giving up": (
        Play(grace=0.0, strikes={"source": ((state("committed"), ("cut",)),)}),
        ["S:committed"],
    ),
    "p.haul while it thaws": (
        Play(
            strikes={
                "target": ((state("held"), ("target",)),),
                "source": (("after=handover_copies:act#2", ("source",)),),
            }
        ),
        ["T:held", "kill:target", "s:thaw", "kill:source", "S:undone"],
    ),
    "the guard while it thaws": (
        Play(
            strikes={
                "source": ((state("frozen"), ("source",)),),
                "source-guard": (("after=handover_copies:act", ("source-guard",)),),
            },
            then=(("rest", ()),),
        ),
        ["kill:source", "s:thaw", "kill:source-guard", "S:undone"],
    ),
}


@pytest.fixture(scope="module")
def events_of(stage: Stage) -> Callable[[str], list[str]]:
    """What happens in one of TOLD, played once."""
    return functools.cache(lambda what: played(stage, TOLD[what][0]))


@pytest.mark.parametrize("what", TOLD)
def test_struck(events_of: Callable[[str], list[str]], what: str) -> None:
    found = events_of(what)
    events = iter(found)
    assert [name for name in TOLD[what][1] if name not in events] == [], found


def test_all_that_the_model_does_the_code_does(events_of: Callable[[str], list[str]]) -> None:
    """But for --force, which the plays leave to who plays them."""
    seen = {name for what in TOLD for name in events_of(what)}
    assert seen == handover_search.search(faults=1, ends=False).names - {"force"}


def strikes(role: str, victims: list[str]) -> st.SearchStrategy[tuple[Strike, ...]]:
    """At most two, at any points of that process; itself last, as then nothing more happens in it."""
    # Before its first record is written there is no haul.
    first = 2 if role == "source" else 1
    records = st.builds(record, st.sampled_from(["before", "torn", "after"]), st.integers(first, RECORDS))
    acts = st.builds("{}=handover_copies:act#{}".format, st.sampled_from(["before", "after"]), st.integers(1, ACTS))
    call = "phaul.xem_rpc:Caller.call" if role.startswith("source") else "phaul.service:_Talk.handle"
    calls = st.builds(f"{{}}={call}#{{}}".format, st.sampled_from(["before", "after"]), st.integers(1, CALLS))
    struck = st.lists(st.sampled_from(victims), unique=True, max_size=3)
    whole = st.builds(lambda others, own: (*others, role) if own else tuple(others), struck, st.booleans())
    return st.lists(st.tuples(st.one_of(records, acts, calls), whole), max_size=2).map(tuple)


SOURCE = strikes("source", ["source-guard", "target-guard", "target", "cut"])
TARGET = strikes("target", ["source-guard", "source", "target-guard", "pager", "holder"])
PLAYS = st.builds(
    Play,
    mode=st.sampled_from(["auto", "postcopy"]),
    grace=st.sampled_from([0.0, 0.05, 60.0]),
    strikes=st.fixed_dictionaries(
        {
            "source": SOURCE,
            "target": TARGET,
            "source-guard": strikes("source-guard", ["target"]),
            "target-guard": strikes("target-guard", ["source"]),
        }
    ),
    then=st.lists(st.one_of(st.tuples(st.just("serve"), TARGET), st.tuples(st.just("settle"), SOURCE)), max_size=3).map(
        tuple
    ),
)


# What fails says all that there is to know: to make it smaller would take longer than to read it.
ONCE = settings(
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@settings(ONCE, max_examples=60)
@given(play=PLAYS)
def test_struck_at_random(stage: Stage, play: Play) -> None:
    played(stage, play)


@pytest.mark.long
@settings(ONCE, max_examples=1000)
@given(play=PLAYS)
def test_struck_at_random_and_often(stage: Stage, play: Play) -> None:
    played(stage, play)


def test_what_the_model_does_not_allow_is_refused() -> None:
    assert refused([*WHOLE, "s:end", "S:done", "T:done"], "auto") == ""
    assert refused([*WHOLE, "s:thaw"], "auto").endswith("s:thaw")
    assert refused(["T:begun", "s:freeze", "t:hold"], "auto").endswith("t:hold")
    assert refused(WHOLE, "auto").endswith("(no good end)")
    assert not promised(["s:freeze", "t:hold", "t:run", "s:thaw"])
    assert not promised(["s:freeze", "t:hold", "s:end"])
