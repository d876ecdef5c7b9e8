"""Pages on request, piece by piece: ranges, wire formats, asking, serving, and how fast."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phaul import pages_images
from phaul.errors import ProtocolError, UsageError
from phaul.pace import BURST_SECONDS, Pace, rate_of
from phaul.pages_asker import FIRST_WINDOW, MAX_WINDOW, MIN_WINDOW, QUEUE_SECONDS, Asker, Window
from phaul.pages_images import LAZY, PRESENT, lazy_pages
from phaul.pages_wire import ANSWER_BYTES, MAX_PAGES, PAGE, REQUEST_BYTES, Wish, answer_of, wish_of
from phaul.spans import Span, Spans

# Ranges

Model = dict[int, int]  # byte by byte: from an address to where it comes from
TOP = 60


def model_of(spans: Spans) -> Model:
    found = {start + i: source + i for start, end, source in spans for i in range(end - start)}
    assert len(found) == spans.size == sum(end - start for start, end, _ in spans)
    assert list(spans) == sorted(spans)
    assert all(start < end for start, end, _ in spans)
    return found


def as_model(pieces: list[Span]) -> Model:
    return {start + i: source + i for start, end, source in pieces for i in range(end - start)}


ranges = st.tuples(st.integers(0, TOP), st.integers(1, 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))
operations = st.one_of(
    st.tuples(st.just("cut"), ranges),
    st.tuples(st.just("add"), ranges, st.integers(0, TOP)),
    st.tuples(st.just("move"), ranges, st.integers(100, 100 + TOP)),
    st.tuples(st.just("move back"), ranges, st.integers(0, TOP)),
    st.tuples(st.just("take"), st.integers(1, 30), st.integers(0, 2 * TOP)),
)


def test_spans_that_go_on_are_one() -> None:
    spans = Spans([(0, 4, 100), (8, 12, 108)])
    spans.add([(4, 8, 104)])
    assert list(spans) == [(0, 12, 100)] and spans.size == 12
    spans.add([(12, 16, 0)])
    assert len(spans) == 2


@given(st.lists(operations, max_size=25), st.integers(0, 200), ranges)
def test_spans_are_what_a_map_of_bytes_is(done: list[Any], address: int, asked: tuple[int, int]) -> None:
    spans, model = Spans([(0, 30, 0), (30, 40, 30), (45, 60, 45)]), {}
    model.update(model_of(spans))
    for name, *args in done:
        do(spans, model, name, *args)
        assert model_of(spans) == model
    found = spans.at(address)
    assert (found is not None) == (address in model)
    if found:
        assert found[0] <= address < found[1]
    inside = {at: source for at, source in model.items() if asked[0] <= source < asked[1]}
    assert as_model(spans.from_source(*asked)) == inside
    assert model_of(spans.copy()) == model
    copied = spans.copy()
    copied.cut(0, 1000)
    assert model_of(spans) == model, "a copy is a thing of its own"


def do(spans: Spans, model: Model, name: str, *args: Any) -> None:
    if name == "cut":
        expected = {at: model.pop(at) for at in range(*args[0]) if at in model}
        assert as_model(spans.cut(*args[0])) == expected
    elif name == "add":
        (start, end), source = args
        if not any(at in model for at in range(start, end)):
            spans.add([(start, end, source)])
            model.update(as_model([(start, end, source)]))
    elif name.startswith("move"):
        (start, end), to = args
        if to >= end or to + end - start <= start:
            spans.move(start, end, to)
            moved = {at + to - start: model.pop(at) for at in range(start, end) if at in model}
            for at in range(to, to + end - start):
                model.pop(at, None)
            model.update(moved)
    else:
        most, after = args
        taken = spans.take(most, after)
        assert (taken is None) == (not model)
        if taken:
            assert 0 < taken[1] - taken[0] <= most
            assert taken[0] == min((at for at in model if at >= after), default=min(model))
            for at, source in as_model([taken]).items():
                assert model.pop(at) == source


# What CRIU's images say


def lazy_from(monkeypatch: pytest.MonkeyPatch, areas: list[tuple[int, int]], entries: list[dict[str, int]]) -> Any:
    documents: dict[str, Any] = {
        "mm-7.img": [{"vmas": [{"start": a * PAGE, "end": b * PAGE} for a, b in areas]}],
        "pagemap-7.img": [{"pages_id": 1}, *({**entry, "vaddr": entry["vaddr"] * PAGE} for entry in entries)],
    }
    monkeypatch.setattr(pages_images, "_load", lambda path, _magic: documents[path.name])
    lazy = lazy_pages(Path("/images"), 7)
    return [(a // PAGE, b // PAGE, s // PAGE) for a, b, s in lazy.spans], [first // PAGE for first in lazy.firsts]


def test_lazy_pages_are_what_is_lazy_and_not_in_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        {"vaddr": 10, "nr_pages": 2, "flags": LAZY},
        {"vaddr": 12, "nr_pages": 3, "flags": PRESENT},
        {"vaddr": 15, "compat_nr_pages": 1, "flags": LAZY},
        {"vaddr": 16, "nr_pages": 1, "flags": LAZY | PRESENT},
        {"vaddr": 17, "nr_pages": 1, "flags": 1},
        {"vaddr": 30, "nr_pages": 5, "flags": LAZY},
    ]
    assert lazy_from(monkeypatch, [(10, 20), (25, 40)], entries) == (
        [(10, 12, 10), (15, 16, 15), (30, 35, 30)],
        [10, 30],
    )


def test_no_span_crosses_the_border_of_a_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    areas = [(8, 12), (12, 13), (13, 20), (20, 30)]
    entries = [{"vaddr": 10, "nr_pages": 6, "flags": LAZY}, {"vaddr": 16, "nr_pages": 10, "flags": LAZY}]
    spans = [(10, 12, 10), (12, 13, 12), (13, 20, 13), (20, 26, 20)]
    assert lazy_from(monkeypatch, areas, entries) == (spans, [10, 13, 20])


# On the wire

wishes = st.builds(
    Wish, st.integers(0, 2**32 - 1), st.integers(0, 2**50).map(lambda n: n * PAGE), st.integers(1, MAX_PAGES)
)


@given(wishes)
def test_what_is_packed_is_read_again(wish: Wish) -> None:
    assert wish_of(wish.packed()) == wish
    for size in (0, wish.size):
        assert answer_of(wish.answer(size)) == (wish, size)


def is_good(pages: int, start: int) -> bool:
    return 0 < pages <= MAX_PAGES and start % PAGE == 0 and start + pages * PAGE < 1 << 63


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1) | st.integers(0, 70), st.integers(0, 2**64 - 1))
def test_requests_that_no_pager_sends(task: int, pages: int, start: int) -> None:
    for at in (start, start & -PAGE):
        if not is_good(pages, at):
            with pytest.raises(ProtocolError):
                wish_of(struct.pack(">IIQ", task, pages, at))


@given(wishes, st.integers(0, 2**32 - 1))
def test_answers_of_another_size(wish: Wish, size: int) -> None:
    if size not in (0, wish.size):
        with pytest.raises(ProtocolError):
            answer_of(wish.answer(size))


@pytest.mark.parametrize("wish", [Wish(1, PAGE, 0), Wish(1, PAGE, MAX_PAGES + 1), Wish(1, 1, 1), Wish(1, 1 << 63, 1)])
def test_answers_that_no_source_sends(wish: Wish) -> None:
    with pytest.raises(ProtocolError):
        answer_of(wish.answer(0))


# Asking


@pytest.fixture
def asking() -> Iterator[tuple[Asker, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield Asker(near), far


def pages_at(asker: Asker, wish: Wish) -> bytes:
    return ctypes.string_at(asker.buffer, wish.size)


FIRST, SECOND = Wish(1, 16 * PAGE, 2), Wish(2, 3 * PAGE, 1)
ANSWERS = FIRST.answer(FIRST.size) + b"a" * PAGE + b"b" * PAGE + SECOND.answer(0)


@given(st.lists(st.integers(1, len(ANSWERS) - 1), max_size=12), st.booleans())
def test_answers_come_in_any_pieces(cuts: list[int], every_byte_of_heads: bool) -> None:
    near, far = socket.socketpair()
    with near, far:
        asker = Asker(near)
        for wish in (FIRST, SECOND):
            asker.ask(wish)
        asker.write()
        assert far.recv(100) == FIRST.packed() + SECOND.packed()
        if every_byte_of_heads:
            heads = {*range(1, ANSWER_BYTES + 2), *range(len(ANSWERS) - ANSWER_BYTES, len(ANSWERS))}
            cuts = [*cuts, *heads]
        edges = [0, *sorted(set(cuts)), len(ANSWERS)]
        found = []
        for low, high in pairwise(edges):
            far.sendall(ANSWERS[low:high])
            while wish := asker.read():
                found.append((wish, pages_at(asker, wish)))
        assert found == [(FIRST, b"a" * PAGE + b"b" * PAGE), (SECOND, bytes(PAGE))]
        assert not asker.asked


@pytest.mark.parametrize("wrong", [SECOND, Wish(1, 16 * PAGE, 1), Wish(3, 16 * PAGE, 2), Wish(1, 17 * PAGE, 2)])
def test_an_answer_to_something_else(asking: tuple[Asker, socket.socket], wrong: Wish) -> None:
    asker, far = asking
    asker.ask(FIRST)
    asker.ask(SECOND)
    far.sendall(wrong.answer(0))
    with pytest.raises(ProtocolError, match="was not asked"):
        asker.read()


def test_an_answer_to_nothing(asking: tuple[Asker, socket.socket]) -> None:
    asker, far = asking
    assert asker.read() is None
    far.sendall(FIRST.answer(0))
    with pytest.raises(ProtocolError, match="was not asked"):
        asker.read()


@pytest.mark.parametrize("said", [b"", FIRST.answer(0)[:5], ANSWERS[: ANSWER_BYTES + 100]])
def test_the_far_end_goes(asking: tuple[Asker, socket.socket], said: bytes) -> None:
    asker, far = asking
    asker.ask(FIRST)
    far.sendall(said)
    far.close()
    with pytest.raises(ConnectionError):
        while asker.read() is None:
            pass
    with pytest.raises(OSError):
        for _ in range(3):
            asker.ask(SECOND)
            asker.write()


def test_what_comes_soon(asking: tuple[Asker, socket.socket]) -> None:
    asker, far = asking
    asker.ask(FIRST)
    for number in range(6):
        asker.ask(Wish(1, number * 8 * PAGE, 8))
    assert not asker.comes_within(Wish(1, 0, 3), 7)  # nobody knows when that begins to answer
    far.sendall(FIRST.answer(0))
    assert asker.read() == FIRST
    for first, within, soon in ((0, 1, True), (7, 1, True), (8, 1, False), (8, 2, True), (31, 4, True), (32, 4, False)):
        assert asker.comes_within(Wish(1, first * PAGE, 3), within) is soon
    assert not asker.comes_within(Wish(2, 0, 1), 6)


def test_requests_wait_until_the_socket_takes_them(asking: tuple[Asker, socket.socket]) -> None:
    asker, far = asking
    count = 50_000
    for _ in range(count):
        asker.ask(FIRST)
    asker.write()
    assert asker.wants_out
    far.setblocking(False)
    got = 0
    while got < count * REQUEST_BYTES:
        with contextlib.suppress(BlockingIOError):
            got += len(far.recv(1 << 20))
        asker.write()
    assert not asker.wants_out


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def round_trips(window: Window, clock: Clock, count: int, seconds: float) -> int:
    for _ in range(count):
        window.asked()
        clock.now += seconds
        window.answered()
        assert MIN_WINDOW <= window.size <= MAX_WINDOW
    return window.size


def test_the_window_follows_the_link() -> None:
    clock = Clock()
    window = Window(clock)
    assert window.size == FIRST_WINDOW
    assert round_trips(window, clock, 10, 0.2) == FIRST_WINDOW + 10  # far away is no queue
    assert round_trips(window, clock, 5, 0.2 + QUEUE_SECONDS * 0.75) == FIRST_WINDOW + 10
    assert round_trips(window, clock, 5, 0.2 + QUEUE_SECONDS * 1.5) == FIRST_WINDOW + 5
    assert round_trips(window, clock, 200, 3.0) == MIN_WINDOW
    assert round_trips(window, clock, 200, 0.001) == MAX_WINDOW


# How fast


@pytest.mark.parametrize(
    ("text", "rate"),
    [("500k", 512000), ("20M", 20 << 20), ("1G", 1 << 30), ("1.5m", 3 << 19), ("1024", 1024), (" 2K ", 2048)],
)
def test_bandwidths(text: str, rate: int) -> None:
    assert rate_of(text) == rate


@pytest.mark.parametrize("text", ["", "0", "1023", "-5M", "5T", "5MB", "M", "1e9", "0.5k", "nan", "1 M", "9" * 20])
def test_what_is_no_bandwidth(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        rate_of(text)
    assert caught.value.code == "bad-bandwidth"


@given(st.lists(st.tuples(st.integers(1, 1 << 20), st.floats(0, 0.5)), min_size=1, max_size=40))
def test_the_pace_is_kept(parts: list[tuple[int, float]]) -> None:
    """However it comes, no more is sent by any moment than the rate gives, but for one burst and one piece."""
    clock, rate = Clock(), 1 << 20
    pace = Pace(rate, clock=clock)
    begun, sent = clock.now, 0
    for count, pause in parts:
        waits = pace.due(count)
        assert waits >= 0
        clock.now += waits
        assert sent <= rate * (clock.now - begun + BURST_SECONDS) + 1
        sent += count
        clock.now += pause


def test_a_limit_is_reached() -> None:
    clock = Clock()
    pace = Pace(1000, clock=clock)
    begun = clock.now
    for _ in range(100):
        clock.now += pace.due(50)
    assert 5 - 2 * BURST_SECONDS < clock.now - begun <= 5


def test_no_limit_and_the_end_of_one() -> None:
    Pace().keep(1 << 60)
    slow = Pace(1)
    slow.keep(3600)
    waiting = threading.Thread(target=slow.keep, args=(1,))
    waiting.start()
    slow.stop()
    waiting.join(20)
    assert not waiting.is_alive()
