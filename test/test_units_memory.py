"""Reading the memory of another process and serving it, wherever it ends."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from puppet import PAGE, WORDS, Puppet

from phaul.connection import Connection
from phaul.errors import HaulFailed, LinkLost, PhaulError, ProtocolError
from phaul.link import Link
from phaul.pages_source import BULK, CHANNELS, DEMAND, Memory, Serving, serve
from phaul.pages_wire import ANSWER_BYTES, MAX_PAGES, Wish, answer_of
from phaul.relay import LENGTH

HERE, INNER = 0x300000000000, 5
ZEROS = HERE + 8 * PAGE  # pages that were never touched follow
SOON = 20


@pytest.fixture
def puppet() -> Iterator[Puppet]:
    """It has eight pages, the first ones 1, 2, 2, 0, 5, 5, 5, 5, and 200 more untouched ones."""
    made = Puppet()
    made.do("map", HERE, 208)
    for at, pages, word in ((0, 1, 1), (1, 2, 2), (4, 4, 5)):
        made.do("write", HERE + at * PAGE, pages, word)
    yield made
    made.close()


def page(word: int) -> bytes:
    return word.to_bytes(8, "little") * WORDS


def read(memory: Memory, wish: Wish) -> bytes:
    into = bytearray(b"x" * (wish.size + 10))
    memory.read(wish, memoryview(into))
    assert into[wish.size :] == b"x" * 10
    return bytes(into[: wish.size])


def test_memory_of_another_process(puppet: Puppet) -> None:
    memory = Memory({INNER: puppet.pid, 6: os.getpid()})
    assert read(memory, Wish(INNER, HERE, 5)) == page(1) + page(2) + page(2) + page(0) + page(5)
    assert read(memory, Wish(INNER, HERE + 7 * PAGE, 2)) == page(5) + page(0)
    assert read(memory, Wish(INNER, ZEROS, MAX_PAGES)) == bytes(MAX_PAGES * PAGE)
    puppet.do("protect", HERE, 1, False)
    assert read(memory, Wish(INNER, HERE, 1)) == page(1)
    memory.close()
    memory.close()


@pytest.mark.parametrize("start", [HERE - PAGE, HERE + 208 * PAGE, HERE + 207 * PAGE])
def test_what_is_not_mapped(puppet: Puppet, start: int) -> None:
    memory = Memory({INNER: puppet.pid})
    with pytest.raises(HaulFailed, match="cannot be read") as caught:
        read(memory, Wish(INNER, start, 2))
    assert caught.value.code == "pages"
    memory.close()


def test_a_task_that_is_not_hauled(puppet: Puppet) -> None:
    memory = Memory({INNER: puppet.pid})
    with pytest.raises(ProtocolError, match="not hauled"):
        read(memory, Wish(puppet.pid, HERE, 1))
    memory.close()


def test_a_process_that_is_dead(puppet: Puppet) -> None:
    memory = Memory({INNER: puppet.pid})
    puppet.close()
    with pytest.raises(HaulFailed, match="the process is gone"):
        read(memory, Wish(INNER, HERE, 1))
    memory.close()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(HaulFailed, match=f"process {puppet.pid} cannot be read"):
        Memory({1: os.getpid(), INNER: puppet.pid})
    assert len(os.listdir("/proc/self/fd")) == before


# Serving


def ask(link: Link, data: bytes) -> None:
    link.send(LENGTH.pack(len(data)) + data)


def answer(link: Link) -> tuple[Wish, bytes]:
    (length,) = LENGTH.unpack(link.recv_exact(LENGTH.size, timeout=SOON))
    wish, size = answer_of(link.recv_exact(ANSWER_BYTES, timeout=SOON))
    assert length == ANSWER_BYTES + size
    return wish, link.recv_exact(size, timeout=SOON)


class Served:
    """serve() in a thread, and the far end of its link."""

    def __init__(self, memory: Memory) -> None:
        near, far = (Link(sock, "peer") for sock in socket.socketpair())
        self.link, self.count, self.error = far, 0, None
        self._near = near
        self._thread = threading.Thread(target=self._serve, args=(memory,), daemon=True)
        self._thread.start()

    def _serve(self, memory: Memory) -> None:
        try:
            serve(self._near, memory, on_bytes=self._add)
        except PhaulError as error:
            self.error: PhaulError | None = error

    def _add(self, sent: int, content: int) -> None:
        assert sent == content
        self.count += sent

    def ask(self, data: bytes) -> None:
        ask(self.link, data)

    def answer(self) -> tuple[Wish, bytes]:
        return answer(self.link)

    def end(self) -> PhaulError | None:
        self._thread.join(SOON)
        assert not self._thread.is_alive()
        self._near.close()
        self.link.close()
        return self.error


@pytest.fixture
def served(puppet: Puppet) -> Served:
    return Served(Memory({INNER: puppet.pid}))


def test_answers_in_the_order_of_the_requests(served: Served) -> None:
    wishes = [Wish(INNER, HERE, 3), Wish(INNER, ZEROS, 64), Wish(INNER, HERE + 3 * PAGE, 1), Wish(INNER, HERE, 1)]
    # As a relay may cut them.
    data = b"".join(wish.packed() for wish in wishes)
    for low, high in ((0, 1), (1, 20), (20, 50), (50, len(data))):
        served.ask(data[low:high])
    answers = [served.answer() for _ in wishes]
    assert answers == [(wishes[0], page(1) + page(2) * 2), (wishes[1], b""), (wishes[2], b""), (wishes[3], page(1))]
    served.link.send(LENGTH.pack(0))
    assert served.end() is None
    assert served.count == 4 * PAGE + 4 * ANSWER_BYTES


@pytest.mark.parametrize("offset", [0, 1, 64, 2048, PAGE - 65, PAGE - 1])
def test_one_byte_is_not_zero(puppet: Puppet, offset: int) -> None:
    puppet.do("poke", ZEROS + 2 * PAGE + offset, 1)
    served = Served(Memory({INNER: puppet.pid}))
    served.ask(Wish(INNER, ZEROS, 3).packed() + Wish(INNER, ZEROS + 2 * PAGE, 1).packed())
    for _ in range(2):
        content = served.answer()[1]
        assert content.count(0) == len(content) - 1
    served.link.close()
    assert isinstance(served.end(), LinkLost)


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (Wish(9, HERE, 1).packed(), ProtocolError),
        (Wish(INNER, HERE, MAX_PAGES + 1).packed(), ProtocolError),
        (Wish(INNER, HERE + 1, 1).packed(), ProtocolError),
        (Wish(INNER, HERE - PAGE, 1).packed(), HaulFailed),
    ],
)
def test_what_cannot_be_answered(served: Served, asked: bytes, kind: type[PhaulError]) -> None:
    served.ask(Wish(INNER, HERE, 1).packed() + asked)
    assert served.answer()[1] == page(1)
    assert isinstance(served.end(), kind)


Ends = dict[str, Connection]


@pytest.fixture
def channels() -> tuple[Ends, dict[str, Link]]:
    """Both ends of each channel: the source's, and what the pager would have."""
    near, far = {}, {}
    for name in CHANNELS:
        ours, theirs = socket.socketpair()
        near[name], far[name] = Connection(Link(ours, "target")), Link(theirs, "source")
    return near, far


def no_other(_: str) -> Connection:
    raise AssertionError("there is no need for another connection")


def test_the_bulk_waits_for_its_word(puppet: Puppet, channels: tuple[Ends, dict[str, Link]]) -> None:
    near, far = channels
    wish = Wish(INNER, HERE, 1)

    def serving_threads() -> list[str]:
        return sorted(thread.name for thread in threading.enumerate() if thread.name in CHANNELS)

    with Serving(Memory({INNER: puppet.pid}), no_other) as serving:
        serving.start(near)
        for link in far.values():
            ask(link, wish.packed())
        assert answer(far[DEMAND]) == (wish, page(1))
        assert serving_threads() == [DEMAND]
        serving.push()
        serving.push()
        assert answer(far[BULK]) == (wish, page(1))
        assert serving_threads() == sorted(CHANNELS)
    assert serving.failure is None


def test_a_bulk_that_was_never_wanted_is_closed(puppet: Puppet, channels: tuple[Ends, dict[str, Link]]) -> None:
    near, far = channels
    with Serving(Memory({INNER: puppet.pid}), no_other) as serving:
        serving.start(near)
    assert far[BULK].recv(1, timeout=SOON) == b""
