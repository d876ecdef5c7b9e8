"""Pages that come before their tasks, which of a task's pages there are, and what is foretold of a downtime."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import threading
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phaul import dirty, forecast, pages_store
from phaul.errors import ProtocolError
from phaul.pages_source import Memory
from phaul.pages_store import Store
from phaul.pages_wire import ANSWER_BYTES, FORGET, FORGET_TASK, MAX_PAGES, PAGE, Wish, wishes
from phaul.pre_copy import Sender, Tracked
from phaul.relay import LENGTH

TASK = 7


def page(number: int) -> bytes:
    return number.to_bytes(8, "big") * (PAGE // 8)


def put(store: Store, start: int, numbers: list[int], task: int = TASK) -> None:
    store.put(Wish(task, start, len(numbers)), memoryview(b"".join(map(page, numbers))))


def taken(store: Store, task: int = TASK) -> dict[int, bytes]:
    """Everything of the task, by its address; it is gone from the store then."""
    found = {}
    while wish := store.take(task):
        data = ctypes.string_at(store.buffer, wish.size)
        for at in range(0, wish.size, PAGE):
            found[wish.start + at] = data[at : at + PAGE]
    return found


def test_the_last_word_counts() -> None:
    store = Store()
    put(store, 0, [1, 2, 3, 4])
    put(store, PAGE, [12, 13])
    store.put(Wish(TASK, 3 * PAGE, 1), memoryview(b""))
    store.forget(Wish(TASK, 0, 1))
    put(store, 0, [99], task=8)
    assert store.size == 4 * PAGE
    assert taken(store) == {PAGE: page(12), 2 * PAGE: page(13), 3 * PAGE: bytes(PAGE)}
    assert taken(store, 8) == {0: page(99)}
    assert store.size == 0


def test_from_an_address_on() -> None:
    store = Store()
    put(store, 0, [1, 2, 3, 4])
    first = store.take(TASK, PAGE, 2 * PAGE)
    assert first == Wish(TASK, 2 * PAGE, 1)
    assert ctypes.string_at(store.buffer, PAGE) == page(3)
    assert set(taken(store)) == {0, PAGE, 3 * PAGE}


steps = st.lists(st.tuples(st.sampled_from("pf"), st.integers(0, 20), st.integers(1, 6)), max_size=25)


@given(steps)
def test_like_a_table_of_pages(told: list[tuple[str, int, int]]) -> None:
    store, model = Store(), {}
    for number, (what, first, count) in enumerate(told, start=1):
        addresses = [(first + index) * PAGE for index in range(count)]
        if what == "p":
            put(store, addresses[0], [number * 100 + index for index in range(count)])
            model.update({address: page(number * 100 + index) for index, address in enumerate(addresses)})
        else:
            store.forget(Wish(TASK, addresses[0], count))
            for address in addresses:
                model.pop(address, None)
    assert taken(store) == model


def received(*parts: bytes) -> Store:
    """What a store has of a stream."""
    ours, theirs = socket.socketpair()
    sender = threading.Thread(target=lambda: (theirs.sendall(b"".join(parts)), theirs.close()))
    sender.start()
    store = Store()
    try:
        with ours:
            pages_store.receive(ours, store)
    finally:
        sender.join()
    return store


def test_a_stream() -> None:
    one, two = Wish(TASK, 0, 2), Wish(8, 0, 1)
    store = received(
        one.answer(2 * PAGE) + page(1) + page(2),
        two.answer(PAGE) + page(3),
        Wish(TASK, 0, 1).answer(FORGET),
        Wish(8, 0, 1).answer(FORGET_TASK),
        Wish(TASK, 4 * PAGE, 1).answer(0),
    )
    assert taken(store) == {PAGE: page(2), 4 * PAGE: bytes(PAGE)}
    assert taken(store, 8) == {}


@pytest.mark.parametrize("cut", [1, 19, 21, 20 + PAGE - 1])
def test_a_stream_that_breaks_off(cut: int) -> None:
    with pytest.raises(ConnectionError):
        received((Wish(TASK, 0, 1).answer(PAGE) + page(1))[:cut])


def test_a_stream_of_nonsense() -> None:
    with pytest.raises(ProtocolError):
        received(Wish(TASK, 0, 1).answer(5) + b"12345")


def test_a_range_in_pieces() -> None:
    found = list(wishes(TASK, 4 * PAGE, (5 + 2 * MAX_PAGES) * PAGE))
    assert [wish.pages for wish in found] == [MAX_PAGES, MAX_PAGES, 1]
    assert found[0].start == 4 * PAGE and all(a.end == b.start for a, b in pairwise(found))


def test_pages_that_a_task_has() -> None:
    """Touched ones; neither those that nobody has written to, nor a file's."""
    memory = mmap.mmap(-1, 8 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory[2 * PAGE] = memory[3 * PAGE] = memory[6 * PAGE] = 1
    mine = [(a, b) for a, b in dirty.pages(os.getpid(), only_dirty=False) if a < start + 8 * PAGE and b > start]
    covered = {at for a, b in mine for at in range(max(a, start), min(b, start + 8 * PAGE), PAGE)}
    assert covered == {start + index * PAGE for index in (2, 3, 6)}


def test_what_cannot_be_read_whole_is_taken_back() -> None:
    """What an earlier round sent of it is old."""
    sent: list[bytes] = []
    channel: Any = SimpleNamespace(link=SimpleNamespace(send=lambda data: sent.append(bytes(data))))
    rounds = Tracked(Sender(channel, lambda *_: None), lambda: {TASK: os.getpid()}, lambda act: act())
    memory = Memory({TASK: os.getpid()})
    rounds._send_range(memory, TASK, PAGE, 3 * PAGE)  # nothing is mapped so low
    memory.close()
    assert sent == [LENGTH.pack(ANSWER_BYTES) + Wish(TASK, PAGE, 2).answer(FORGET)]


def test_a_task_that_cannot_be_read_is_taken_back() -> None:
    sent: list[bytes] = []
    channel: Any = SimpleNamespace(link=SimpleNamespace(send=lambda data: sent.append(bytes(data))))
    rounds = Tracked(Sender(channel, lambda *_: None), dict, lambda act: act())
    rounds._seen, rounds._changed = {TASK: (1 << 22, "")}, {TASK: [(PAGE, 2 * PAGE)]}
    rounds._send()
    assert sent == [LENGTH.pack(ANSWER_BYTES) + Wish(TASK, 0, 1).answer(FORGET_TASK)]


def test_pages_of_nobody() -> None:
    assert dirty.pages(1 << 22, only_dirty=False) == []


WHOLE = {
    "memory": 1 << 30,
    "way": forecast.Way("", float(100 << 20), "So."),
    "lazy": True,
    "rounds": "",
    "budget_ms": None,
}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"mode": "auto"}, ["10.5 s", "1.0 GiB", "100.0 MiB/s", "--mode postcopy"]),
        ({"mode": "postcopy"}, ["0.3 s", "at once", "depends on this host"]),
        ({"mode": "auto", "budget_ms": 2000}, ["2.0 s", "depends on this host"]),
        ({"mode": "auto", "budget_ms": 60_000}, ["10.5 s", "--mode postcopy"]),
        ({"mode": "auto", "rounds": forecast.TRACKED}, ["0.3 s", "last round", "in rounds", "track"]),
        ({"mode": "auto", "rounds": forecast.COMPARED, "memory": 4 << 30}, ["1.3 s", "last round", "compared"]),
        ({"mode": "auto", "lazy": False}, ["10.5 s"]),
    ],
)
def test_what_is_foretold(other: dict[str, object], words: list[str]) -> None:
    said = forecast.expect(**{**WHOLE, **other}).words  # type: ignore[arg-type]
    assert [word for word in words if word not in said] == []
    assert said.endswith(". So.")
    assert ("--mode postcopy" in said) == ("--mode postcopy" in words)
