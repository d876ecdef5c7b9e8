"""Pre-copy by comparing: whatever a task does to its memory, nothing that has become untrue stays at the target."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from puppet import Puppet
from test_units_store import received, taken

from phaul import dirty, pre_compare, pre_copy
from phaul.errors import HaulFailed
from phaul.pages_source import Memory
from phaul.pages_store import Store
from phaul.pages_wire import PAGE, Wish
from phaul.pre_compare import UNIT, Compared, Digests, Window, by_unit
from phaul.pre_copy import Sender
from phaul.relay import LENGTH

INNER = 7
BASE = 0x7000_0000_0000
PAGES = 200
UNIT_PAGES = UNIT // PAGE
SEEDS = range(12)


class Copying:
    """A puppet whose memory at BASE goes to a store by Compared; `words` is what its pages are, -1 for none."""

    def __init__(self) -> None:
        self.puppet = Puppet()
        self.stream: list[bytes] = []
        channel: Any = SimpleNamespace(link=SimpleNamespace(send=self.carry, send_chunk=self.carry))
        self.sent = 0
        self.tasks = {INNER: self.puppet.pid}
        self.compared = Compared(Sender(channel, self.count), lambda: self.tasks)
        self.words = [-1] * PAGES
        self.puppet.do("map", BASE, PAGES)

    def carry(self, data: memoryview) -> int:
        self.stream.append(bytes(data[LENGTH.size :]))
        return len(data) - LENGTH.size

    def count(self, size: int, content: int) -> None:
        assert size == content
        self.sent += size

    def write(self, first: int, pages: int, word: int) -> None:
        self.puppet.do("write", BASE + first * PAGE, pages, word)
        self.words[first : first + pages] = [word] * pages

    def map(self, first: int, pages: int) -> None:
        """Fresh memory in the place of what was there."""
        self.puppet.do("map", BASE + first * PAGE, pages)
        self.words[first : first + pages] = [-1] * pages

    def drop(self, first: int, pages: int) -> None:
        self.puppet.do("drop", BASE + first * PAGE, pages)
        self.words[first : first + pages] = [-1] * pages

    def rounds(self) -> list[int]:
        """How many bytes had changed in each."""
        told: list[tuple[int, int | None]] = []
        self.compared.run(lambda *words: told.append(words))
        assert [number for number, _ in told] == [n for n in range(1, len(told) // 2 + 1) for _ in "bc"]
        assert all((size is None) == (index % 2 == 0) for index, (_, size) in enumerate(told))
        return [size for _, size in told if size is not None]

    def there(self) -> dict[int, int]:
        """What the store has of it when all is settled: from the page's number to the word that it repeats."""
        self.compared.settle()
        end = BASE + PAGES * PAGE
        kept = taken(received(*self.stream), INNER)
        pages = {(at - BASE) // PAGE: data for at, data in kept.items() if BASE <= at < end}
        assert all(data == data[:8] * (PAGE // 8) for data in pages.values())
        return {number: int.from_bytes(data[:8], "little") for number, data in pages.items()}


@pytest.fixture
def copying() -> Iterator[Copying]:
    made = Copying()
    yield made
    made.puppet.close()


def test_what_does_not_change_is_sent_once(copying: Copying) -> None:
    copying.write(0, PAGES, 5)
    first = copying.rounds()
    assert first[0] >= PAGES * PAGE > 2 * sum(first[1:])  # the puppet's own, which it uses
    before = copying.sent
    assert before >= PAGES * PAGE
    copying.rounds()
    assert copying.sent - before < PAGES * PAGE // 2
    assert copying.there() == dict.fromkeys(range(PAGES), 5)


def test_a_changed_byte_costs_its_unit(copying: Copying) -> None:
    copying.write(0, PAGES, 5)
    copying.rounds()
    copying.puppet.do("poke", BASE + 40 * PAGE + 123, 1)
    lacking = set(range(PAGES)) - copying.there().keys()
    start = (BASE // PAGE + 40) // UNIT_PAGES * UNIT_PAGES - BASE // PAGE
    assert lacking == set(range(start, start + UNIT_PAGES))


def test_what_is_mapped_anew_is_not_what_was_there(copying: Copying) -> None:
    copying.write(0, PAGES, 5)
    copying.rounds()
    copying.map(0, 64)
    copying.puppet.do("unmap", BASE + 100 * PAGE, 20)
    kept = copying.there()
    assert not kept.keys() & {*range(64), *range(100, 120)}
    assert set(kept.values()) == {5}


def test_the_same_bytes_at_another_place(copying: Copying) -> None:
    copying.write(0, 2, 5)
    copying.rounds()
    copying.drop(0, 1)
    copying.write(2, 1, 5)
    assert not copying.there()


def test_what_goes_away_while_it_is_read(copying: Copying, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent of it before may be old."""
    copying.write(0, PAGES, 5)
    copying.rounds()
    read = Memory.read

    def gone(self: Memory, wish: Wish, into: memoryview) -> None:
        if BASE <= wish.start < BASE + PAGES * PAGE:
            raise HaulFailed("It is gone.", code="pages")
        read(self, wish, into)

    monkeypatch.setattr(Memory, "read", gone)
    copying.rounds()
    monkeypatch.setattr(Compared, "settle", lambda _: None)
    assert not copying.there()


def test_a_window_reads_all_or_nothing(copying: Copying) -> None:
    copying.write(0, 4, 5)
    copying.puppet.do("unmap", BASE + 2 * PAGE, 1)
    window = Window(copying.puppet.pid)
    parts = window.read([(BASE, BASE + PAGE), (BASE + 3 * PAGE, BASE + 4 * PAGE)])
    assert parts and [bytes(part[:8]) for part in parts] == [b"\5" + bytes(7)] * 2
    assert window.read([(BASE, BASE + 4 * PAGE)]) is None


def test_another_process_of_that_pid_begins_anew(copying: Copying) -> None:
    copying.write(0, 32, 5)
    copying.rounds()
    with_another = Puppet()
    try:
        copying.tasks[INNER] = with_another.pid
        assert copying.there() == {}
    finally:
        with_another.close()


def test_a_task_that_is_gone_is_taken_back(copying: Copying) -> None:
    copying.write(0, 32, 5)
    copying.rounds()
    copying.tasks.clear()
    copying.rounds()
    assert copying.there() == {}


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_it_does(copying: Copying, seed: int) -> None:
    """Rounds between what it does at random, and more of that before the freeze; what is kept is true."""
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 3)):
        for word in range(1, 8):
            do_something(copying, chance, word)
        copying.rounds()
    unchanged = list(copying.words)
    for word in range(100, 100 + chance.randint(0, 4)):
        do_something(copying, chance, word)
    kept = copying.there()
    assert {number: copying.words[number] for number in kept} == kept
    for unit, parts in by_unit([(BASE, BASE + PAGES * PAGE)]):
        numbers = range((parts[0][0] - BASE) // PAGE, (parts[-1][1] - BASE) // PAGE)
        same = all(unchanged[n] == copying.words[n] for n in numbers)
        written = {n for n in numbers if copying.words[n] > 0}
        assert not same or written <= kept.keys(), hex(unit)


def do_something(copying: Copying, chance: random.Random, word: int) -> None:
    first = chance.randrange(PAGES)
    pages = min(PAGES - first, chance.choice((1, 3, 16, 40)))
    what = chance.choice(("write", "write", "write", "map", "drop"))
    if what == "write":
        copying.write(first, pages, word)
    else:
        getattr(copying, what)(first, pages)


def test_memory_is_listed_the_same_on_a_kernel_without_scans(copying: Copying, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for pages that are read and never written, which a scan tells apart."""
    for first, pages in ((0, 1), (5, 20), (30, 90), (199, 1)):
        copying.write(first, pages, 7)
    scanned = dirty.pages(copying.puppet.pid, only_dirty=False)
    monkeypatch.setattr(dirty, "can_scan", lambda: False)
    monkeypatch.setattr(dirty, "_LISTED_PAGES", 16)
    listed = dirty.pages(copying.puppet.pid, only_dirty=False)
    ours = [(a, b) for a, b in listed if BASE <= a < BASE + PAGES * PAGE]
    assert ours == [(BASE + f * PAGE, BASE + (f + n) * PAGE) for f, n in ((0, 1), (5, 20), (30, 90), (199, 1))]
    assert covered(scanned) <= covered(listed)
    assert not covered(listed) & covered(text_of(copying.puppet.pid))


def text_of(pid: int) -> list[tuple[int, int]]:
    """Private mappings of program files, which nobody writes to."""
    lines = (line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
    ranges = (fields[0].split("-") for fields in lines if fields[1] == "r-xp" and fields[-1].startswith("/"))
    return [(int(start, 16), int(end, 16)) for start, end in ranges]


def covered(ranges: list[tuple[int, int]]) -> set[int]:
    return {at for start, end in ranges for at in range(start, end, PAGE)}


def test_digests_by_address() -> None:
    digests = Digests()
    addresses = [0, UNIT, pre_compare.REGION - UNIT, pre_compare.REGION, 0x7FFF_FFFF_0000]
    for number, address in enumerate(addresses, start=1):
        digests.put(address, bytes([number]) * 16)
    assert [digests.get(address) for address in addresses] == [bytes([n]) * 16 for n in range(1, 6)]
    assert digests.get(2 * UNIT) == pre_compare.NOTHING
    assert list(digests.units()) == addresses


def test_ranges_are_cut_at_units() -> None:
    found = list(by_unit([(PAGE, 3 * PAGE), (5 * PAGE, UNIT + PAGE), (3 * UNIT, 4 * UNIT)]))
    assert found == [
        (0, [(PAGE, 3 * PAGE), (5 * PAGE, UNIT)]),
        (UNIT, [(UNIT, UNIT + PAGE)]),
        (3 * UNIT, [(3 * UNIT, 4 * UNIT)]),
    ]


@pytest.mark.parametrize(
    ("number", "size", "before", "last"),
    [(1, 0, 0, False), (2, 64 * PAGE, 1 << 30, True), (2, 65 * PAGE, 1 << 30, False), (3, 1 << 30, 1 << 29, True)],
)
def test_when_to_stop(number: int, size: int, before: int, last: bool) -> None:
    assert pre_copy.is_last(number, size, before) is last


def test_a_store_of_a_steady_stream_is_one_span() -> None:
    """Else each page that comes would cost more than the one before it."""
    copying = Copying()
    copying.write(0, PAGES, 9)
    copying.rounds()
    store: Store = received(*copying.stream)
    copying.puppet.close()
    assert len([span for span in store.spans(INNER) if span[0] >= BASE and span[1] <= BASE + PAGES * PAGE]) == 1
