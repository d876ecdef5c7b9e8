"""The pager, as a process, fills memory that is missing, whatever the program does with its mappings meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.waiting import until
from pager_stage import BASE, ELSEWHERE, SOON, Stage, content, known
from puppet import PAGE, Reading

from phaul.pages_wire import Wish

FAULTS = 60  # in one batch with what follows them


@pytest.fixture
def stage(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    made = Stage(tmp_path, getattr(request, "param", 512))
    yield made
    made.close()


def test_all_of_it_comes(stage: Stage) -> None:
    bulk, demand = stage.channel("b"), stage.channel("d")
    assert stage.puppet.do("read", BASE, stage.pages) == content(BASE, stage.pages)
    stage.completes()
    assert (stage.directory / "complete").read_text() == f"{stage.pages * PAGE}\n"
    asked = sum(wish.size for channel in (bulk, demand) for wish in channel.asked)
    assert stage.lacking <= asked <= 1.2 * stage.lacking


def test_a_page_that_is_waited_for_comes_before_the_rest(stage: Stage) -> None:
    stage.channel("b", allowed=0)
    demand = stage.channel("d")
    assert stage.puppet.do("read", BASE + 300 * PAGE, 20) == content(BASE + 300 * PAGE, 20)
    assert [(wish.start, wish.pages) for wish in demand.asked] == [(BASE + at * PAGE, 16) for at in (300, 316)]


# What a program does with its mappings while all is missing, and what is to be read where afterwards.
DOINGS: dict[str, tuple[list[list[Any]], dict[int, Reading]]] = {
    "writes": ([["write", BASE + 5 * PAGE, 2, 99]], {BASE + 4 * PAGE: [*content(BASE + 4 * PAGE, 1), 99, 99]}),
    "moves": (
        [["move", BASE + PAGE, 70, ELSEWHERE, 70]],
        {ELSEWHERE: content(BASE + PAGE, 70), BASE: content(BASE, 1)},
    ),
    "moves a piece and makes it longer": (
        [["move", BASE + 3 * PAGE, 4, ELSEWHERE, 9]],
        {ELSEWHERE: [*content(BASE + 3 * PAGE, 4), *[0] * 5], BASE + 7 * PAGE: content(BASE + 7 * PAGE, 9)},
    ),
    "moves a piece and makes it shorter": (
        [["move", BASE + 3 * PAGE, 8, ELSEWHERE, 2]],
        {ELSEWHERE: content(BASE + 3 * PAGE, 2), BASE + 11 * PAGE: content(BASE + 11 * PAGE, 9)},
    ),
    "moves twice": (
        [["move", BASE, 8, ELSEWHERE, 8], ["move", ELSEWHERE + 2 * PAGE, 3, BASE + 100 * PAGE, 3]],
        {BASE + 99 * PAGE: [*content(BASE + 99 * PAGE, 1), *content(BASE + 2 * PAGE, 3)], ELSEWHERE: content(BASE, 2)},
    ),
    "drops": (
        [["drop", BASE + 2 * PAGE, 3]],
        {BASE: [*content(BASE, 2), 0, 0, 0, *content(BASE + 5 * PAGE, 100)]},
    ),
    "drops and fills again": (
        [["drop", BASE + 2 * PAGE, 3], ["write", BASE + 3 * PAGE, 1, 7]],
        {BASE: [*content(BASE, 2), 0, 7, 0, *content(BASE + 5 * PAGE, 100)]},
    ),
    "unmaps and maps anew": (
        [["unmap", BASE + 2 * PAGE, 3], ["map", BASE + 2 * PAGE, 3]],
        {BASE: [*content(BASE, 2), 0, 0, 0, *content(BASE + 5 * PAGE, 100)]},
    ),
    "gets shorter and longer again": (
        [["unmap", BASE + 420 * PAGE, 92], ["resize", BASE + 410 * PAGE, 10, 20]],
        {BASE + 400 * PAGE: [*content(BASE + 400 * PAGE, 20), *[0] * 10]},
    ),
    "maps over it": ([["map", BASE, 70]], {BASE: [*[0] * 70, *content(BASE + 70 * PAGE, 5)]}),
    "protects": (
        [["protect", BASE + 10 * PAGE, 3, False], ["protect", BASE + 100 * PAGE, 100, False]],
        {BASE: content(BASE, 512)},
    ),
    "does it all": (
        [
            ["protect", BASE + 30 * PAGE, 10, False],
            ["move", BASE, 20, ELSEWHERE, 20],
            ["drop", ELSEWHERE + 5 * PAGE, 2],
            ["map", BASE, 5],
            ["unmap", BASE + 100 * PAGE, 300],
        ],
        {
            BASE: [0] * 5,
            BASE + 20 * PAGE: content(BASE + 20 * PAGE, 80),
            ELSEWHERE: [*content(BASE, 5), 0, 0, *content(BASE + 7 * PAGE, 13)],
            BASE + 400 * PAGE: content(BASE + 400 * PAGE, 112),
        },
    ),
}


@pytest.mark.parametrize("what", DOINGS)
@pytest.mark.parametrize("first", ["memory", "program"])
def test_what_it_does_meanwhile(stage: Stage, what: str, first: str) -> None:
    """Read at once, so that each page is waited for, or when all has come."""
    orders, expected = DOINGS[what]
    stage.channel("d")
    for order in orders:
        stage.puppet.do(*order)
    if first == "memory":
        stage.channel("b")
        stage.completes()
    for address, reading in expected.items():
        assert stage.puppet.do("read", address, len(reading)) == reading
    if first == "program":
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):  # it may have all already
            stage.channel("b")
        stage.completes()


@pytest.mark.parametrize("who", ["child", "parent"])
@pytest.mark.parametrize("what", [what for what in DOINGS if what != "writes"])  # which would wait for the page
def test_what_it_does_meanwhile_on_either_side_of_a_fork(stage: Stage, what: str, who: str) -> None:
    orders, expected = DOINGS[what]
    bulk = stage.channel("b", allowed=0)
    stage.channel("d", allowed=0)
    bulk.await_asked(8)
    here = BASE + 402 * PAGE  # no doing changes that
    readings = [["read", address, len(reading)] for address, reading in expected.items()]
    untouched = [["read", here, 16]]
    stage.puppet.do(
        "fork", *(orders if who != "parent" else []), ["all", *(readings if who != "parent" else untouched)]
    )
    for order in orders if who != "child" else []:
        stage.puppet.do(*order)
    stage.puppet.begin("all", *(readings if who != "child" else untouched))
    bulk.allow()
    stage.channels[1].allow()
    plain = [content(here, 16)]
    assert stage.puppet.result() == (list(expected.values()) if who != "child" else plain)
    assert stage.puppet.do("join") == [list(expected.values()) if who != "parent" else plain]
    stage.completes()


def test_children_of_children_that_end_or_go_on(stage: Stage) -> None:
    bulk = stage.channel("b", allowed=0)
    stage.channel("d")
    bulk.await_asked(8)
    whole = ["read", BASE, stage.pages]
    stage.puppet.do("fork", ["fork", whole], ["join"])
    stage.puppet.do("fork", ["fork", ["read", BASE, 1]], ["join"])
    stage.puppet.do("fork", ["read", BASE + 40 * PAGE, 20])
    bulk.allow()
    assert stage.puppet.do("join") == [
        [content(BASE, stage.pages)],
        [content(BASE, 1)],
        content(BASE + 40 * PAGE, 20),
    ]
    stage.completes()
    assert stage.puppet.do(*whole) == content(BASE, stage.pages)


def test_it_ends_while_memory_is_missing(stage: Stage) -> None:
    """What nobody needs any more is not waited for."""
    bulk = stage.channel("b", allowed=0)
    bulk.await_asked(8)
    stage.puppet.close()
    bulk.allow(1)
    stage.completes()


def test_threads_all_over_the_place(stage: Stage) -> None:
    stage.channel("d")
    for number in range(12):
        stage.puppet.do("thread", ["read", BASE + number * 40 * PAGE, 60])
    assert stage.puppet.do("join") == [content(BASE + number * 40 * PAGE, 60) for number in range(12)]


def test_what_it_has_split_and_joined_again_can_be_moved(stage: Stage) -> None:
    """Pages come to the outer parts before one comes to the middle."""
    stage.channel("d")
    stage.puppet.do("protect", BASE + 100 * PAGE, 100, False)
    for at in (50, 250, 150):
        assert stage.puppet.do("read", BASE + at * PAGE, 1) == content(BASE + at * PAGE, 1)
    stage.puppet.do("protect", BASE + 100 * PAGE, 100, True)
    stage.puppet.do("move", BASE, 512, ELSEWHERE, 512)
    stage.channel("b")
    stage.completes()
    assert stage.puppet.do("read", ELSEWHERE, 512) == content(BASE, 512)


# The source


@pytest.mark.parametrize("answered", [0, 3])
def test_the_bulks_connection_is_lost_and_another_goes_on(stage: Stage, answered: int) -> None:
    first = stage.channel("b", allowed=answered)
    first.await_asked(8)
    missing = stage.lacking - 64 * answered * PAGE
    until(lambda: stage.status()["missing"] == missing, f"{answered} answers", timeout=SOON)
    stage.channel("d")
    stage.puppet.do("read", BASE + 500 * PAGE, 1)
    first.close()
    stage.channel("b")
    stage.completes()
    assert stage.puppet.do("read", BASE, stage.pages) == content(BASE, stage.pages)


def test_a_connection_is_lost_in_the_middle_of_a_page(stage: Stage) -> None:
    first = stage.channel("b", allowed=0)
    wish = first.await_asked(1)[0]
    first.socket.sendall(wish.answer(wish.size) + b"\1" * 100)
    first.close()
    stage.channel("b")
    stage.completes()
    assert stage.puppet.do("read", BASE, stage.pages) == content(BASE, stage.pages)


def test_another_connection_takes_the_place_of_one_that_lives(stage: Stage) -> None:
    stage.channel("b", allowed=0).await_asked(8)
    stage.channel("d", allowed=0)
    stage.puppet.do("thread", ["read", BASE + 500 * PAGE, 1])
    stage.await_waiting("handle_userfault")
    demand = stage.channel("d")
    assert stage.puppet.do("join") == [content(BASE + 500 * PAGE, 1)]
    assert [wish.start for wish in demand.asked] == [BASE + 500 * PAGE]
    stage.channel("b")
    stage.completes()


@pytest.mark.parametrize("kind", ["b", "d"])
def test_another_connection_is_there_before_the_end_of_the_last_is_seen(stage: Stage, kind: str) -> None:
    """Both in one batch of events; the other must not be taken for the one that is lost."""
    channels = {name: stage.channel(name, allowed=0) for name in "bd"}
    stage.puppet.do("thread", ["read", BASE + 500 * PAGE, 1])
    channels["d"].await_asked(1)
    channels["b"].await_asked(7)
    os.kill(stage.pager.pid, signal.SIGSTOP)
    channels["other"] = stage.channel(kind)
    channels[kind].close()
    os.kill(stage.pager.pid, signal.SIGCONT)
    for channel in channels.values():
        channel.allow()
    assert stage.puppet.do("join") == [content(BASE + 500 * PAGE, 1)]
    stage.completes()
    assert stage.puppet.do("read", BASE, stage.pages) == content(BASE, stage.pages)


def test_what_is_waited_for_is_asked_when_the_source_comes_back(stage: Stage) -> None:
    first = stage.channel("d", allowed=0)
    stage.puppet.do("thread", ["read", BASE + 9 * PAGE, 1])
    first.await_asked(1)
    first.close()
    stage.puppet.do("thread", ["read", BASE + 99 * PAGE, 1])
    stage.await_waiting("handle_userfault", 2)
    stage.channel("d")
    assert stage.puppet.do("join") == [content(BASE + 9 * PAGE, 1), content(BASE + 99 * PAGE, 1)]
    stage.channel("b")
    stage.completes()
    assert stage.puppet.do("read", BASE, stage.pages) == content(BASE, stage.pages)


def test_who_waits_is_told(stage: Stage) -> None:
    with socket.socket(socket.AF_UNIX) as waiter:
        waiter.connect(str(stage.directory / "pager.sock"))
        waiter.sendall(b"w")
        said = waiter.makefile()
        size = stage.pages * PAGE
        assert json.loads(said.readline()) == {"missing": stage.lacking, "total": size}
        assert not (stage.directory / "complete").exists()
        stage.channel("b")
        assert json.loads(said.readline()) == {"missing": 0, "total": size}
        assert (stage.directory / "complete").exists()
        assert said.read() == ""


@pytest.mark.parametrize("stage", [8192], indirect=True)
def test_pages_behind_one_that_comes_soon_are_not_forgotten(stage: Stage) -> None:
    """The faulting page is on its way already; those behind it, which a wish of its own would bring, are not."""
    bulk = stage.channel("b", allowed=0)
    stage.channel("d")
    last = bulk.await_asked(16)[15]
    stage.puppet.do("read", BASE + 5000 * PAGE, 1)  # the bulk goes on from there
    bulk.allow(15)
    come = 15 * 64 + 16
    until(lambda: stage.status()["missing"] == stage.lacking - come * PAGE, "15 answers", timeout=SOON)
    stage.puppet.do("thread", ["read", last.end - PAGE, 1])
    stage.await_waiting("handle_userfault")
    bulk.allow()
    stage.completes()
    assert stage.puppet.do("read", BASE, stage.pages) == content(BASE, stage.pages)


def test_a_fault_does_not_wait_for_a_bulk_that_has_not_begun(stage: Stage) -> None:
    bulk = stage.channel("b", allowed=0)
    stage.channel("d")
    first = bulk.await_asked(8)[0]
    assert stage.puppet.do("read", first.start + PAGE, 1) == content(first.start + PAGE, 1)
    bulk.allow()
    stage.completes()
    assert stage.puppet.do("read", BASE, stage.pages) == content(BASE, stage.pages)


def test_faults_at_the_new_place_are_told_before_the_move_is(stage: Stage) -> None:
    """The kernel gives faults first, whatever else has happened before them."""
    bulk = stage.channel("b", allowed=0)
    stage.channel("d")
    bulk.await_asked(8)
    there, length = range(2, 2 * FAULTS + 2, 2), 2 * FAULTS + 2
    os.sched_setaffinity(stage.pager.pid, {min(os.sched_getaffinity(0))})
    os.kill(stage.pager.pid, signal.SIGSTOP)
    # Another end of it than an unmapping, which would be told as well, and keep the pager from filling.
    stage.puppet.do("thread", ["move", BASE, length, ELSEWHERE, length, True])
    stage.await_waiting("userfaultfd_event_wait_completion")
    for number in there:
        stage.puppet.do("thread", ["read", ELSEWHERE + number * PAGE, 1])
    stage.await_waiting("handle_userfault", FAULTS)
    os.kill(stage.pager.pid, signal.SIGCONT)
    bulk.allow()
    _, *seen = stage.puppet.do("join")
    assert seen == [[known(BASE + number * PAGE)] for number in there]
    stage.completes()
    assert stage.puppet.do("read", ELSEWHERE, length) == content(BASE, length)
    assert stage.puppet.do("read", BASE, length) == [0] * length


# The end before its time: the keeper kills the puppet, and nobody reads a zero meanwhile


@pytest.mark.parametrize("how", ["kill", "quit", "nonsense"])
def test_the_pager_leaves_with_memory_missing(stage: Stage, how: str) -> None:
    bulk = stage.channel("b", allowed=0)
    wish = bulk.await_asked(8)[0]
    child = stage.puppet.do("fork", ["read", BASE + 100 * PAGE, 1])
    await_fault(child)
    stage.puppet.begin("read", BASE + 200 * PAGE, 1)
    await_fault(stage.puppet.pid)
    if how == "kill":
        stage.pager.kill()
    elif how == "quit":
        stage.say("q")
    else:
        bulk.socket.sendall(Wish(wish.task, wish.start + PAGE, 1).answer(0))
    with pytest.raises(EOFError):
        print(stage.puppet.result())
    assert stage.puppet.wait() == -signal.SIGKILL


def test_a_child_of_a_killed_pagers_task_reads_no_zeros(stage: Stage) -> None:
    bulk = stage.channel("b", allowed=0)
    bulk.await_asked(8)
    child = stage.puppet.do("fork", ["read", BASE + 100 * PAGE, 1])
    await_fault(child)
    stage.puppet.begin("join")
    stage.pager.kill()
    with pytest.raises(EOFError):
        print(stage.puppet.result())


def await_fault(pid: int) -> None:
    until(lambda: Path(f"/proc/{pid}/wchan").read_text() == "handle_userfault", "the fault", timeout=SOON)
