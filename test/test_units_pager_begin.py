"""The pager puts a page of each mapping in its place before the program may run, and gives CRIU what it wants."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.waiting import until
from pager_stage import BASE, INNER, SOON, Stage, content
from puppet import PAGE

from phaul.pages_wire import Wish


@pytest.fixture
def unbegun(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    made = Stage(tmp_path, getattr(request, "param", 512), begin=False)
    made.puppet.do("lack", BASE, made.pages)
    yield made
    made.close()


def test_a_mapping_gets_its_first_page_before_the_program_may_run(unbegun: Stage) -> None:
    demand = unbegun.channel("d", allowed=0)
    assert [(wish.start, wish.pages) for wish in demand.await_asked(1)] == [(BASE, 1)]
    with unbegun.startable() as startable:
        demand.allow()
        until(lambda: demand.answered, "the answer", timeout=SOON)
        assert not select.select([startable], [], [], 0)[0]  # nothing is where it belongs yet
        unbegun.puppet.do("restored")
        assert startable.recv(1) == b"."
    assert unbegun.status()["missing"] == unbegun.lacking
    assert unbegun.puppet.do("read", BASE, 2) == content(BASE, 2)


def test_the_program_may_not_run_before_its_first_page_is_there(unbegun: Stage) -> None:
    lost = unbegun.channel("d", allowed=0)
    unbegun.puppet.do("restored")
    with unbegun.startable() as startable, unbegun.startable() as another:
        until(lambda: unbegun.status()["missing"] >= 0, "the pager's hearing of it", timeout=SOON)
        lost.close()
        assert not select.select([startable, another], [], [], 0)[0]
        unbegun.channel("d")
        assert startable.recv(1) == another.recv(1) == b"."


@pytest.mark.parametrize("answered", [0, 1])
def test_a_first_page_that_criu_itself_wants(unbegun: Stage, answered: int) -> None:
    """The restorer looks at some, rseq's for one, before all is restored."""
    demand = unbegun.channel("d", allowed=answered)
    until(lambda: demand.answered == answered and demand.asked, "the wish, or its answer", timeout=SOON)
    unbegun.puppet.do("thread", ["read", BASE, 1])
    if not answered:
        unbegun.await_waiting("handle_userfault")
        demand.allow()
    assert unbegun.puppet.do("join") == [content(BASE, 1)]
    unbegun.puppet.do("restored")
    with unbegun.startable() as startable:
        assert startable.recv(1) == b"."


def test_another_page_that_criu_itself_wants(unbegun: Stage) -> None:
    unbegun.channel("d")
    assert unbegun.puppet.do("read", BASE + 9 * PAGE, 1) == content(BASE + 9 * PAGE, 1)
    unbegun.puppet.do("restored")
    with unbegun.startable() as startable:
        assert startable.recv(1) == b"."


@pytest.mark.parametrize("unbegun", [1], indirect=True)
def test_where_no_mapping_can_be_split_only_the_restore_is_waited_for(unbegun: Stage) -> None:
    with unbegun.startable() as startable:
        assert not select.select([startable], [], [], 0.1)[0]
        unbegun.puppet.do("restored")
        assert startable.recv(1) == b"."


def test_a_first_page_waits_for_its_mapping(tmp_path: Path) -> None:
    with contextlib.closing(Stage(tmp_path, 512, begin=False)) as stage:
        demand = stage.channel("d")
        until(lambda: demand.answered, "the answer", timeout=SOON)
        for _ in range(2):  # the second time the pager has surely seen what was sent before the first
            stage.status()
        stage.puppet.do("lack", BASE, stage.pages)
        stage.puppet.do("restored")
        with stage.startable() as startable:
            assert startable.recv(1) == b"."
        demand.close()
        assert stage.puppet.do("read", BASE, 1) == content(BASE, 1)


def test_a_first_page_that_came_before_the_program_is_put_in_place(unbegun: Stage) -> None:
    store = unbegun.channel("s")
    wish = Wish(INNER, BASE, 2)
    store.socket.sendall(wish.answer(wish.size) + b"\5" * wish.size)
    store.close()
    unbegun.puppet.do("restored")
    with unbegun.startable() as startable:
        assert startable.recv(1) == b"."
    assert unbegun.puppet.do("read", BASE, 2) == [int.from_bytes(b"\5" * 8, "little")] * 2
