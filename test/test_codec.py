"""Compressed chunks over real links: whole streams and relays, what is not worth it, and frames made to do harm."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import SOON, pair, pool

from phaul import codec
from phaul.codec import Packer, Unpacker
from phaul.connection import PROTOCOL, Connection, greet, welcome
from phaul.errors import ProtocolError, Refused
from phaul.link import Link
from phaul.messages_pb2 import Hello, HelloReply
from phaul.pages_source import Answer, Memory
from phaul.pages_wire import ANSWER_BYTES, PAGE, Wish
from phaul.relay import LENGTH, MAX_CHUNK, PACKED

__all__ = ["pair", "pool"]

MIB = 1 << 20


def text(size: int) -> bytes:
    """What can be compressed to a quarter or so, and is nowhere the same."""
    return random.Random(size).randbytes(size // 2 + 1).hex()[:size].encode()


def compress(link: Link, peer: Link) -> None:
    link.packer, peer.unpacker = Packer(), Unpacker("peer", MAX_CHUNK)


@pytest.fixture
def coded(pair: tuple[Link, Link]) -> tuple[Link, Link]:
    compress(*pair)
    return pair


class Wire:
    """Counts what a link sends."""

    def __init__(self, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent = 0
        self._send = link.try_send
        monkeypatch.setattr(link, "try_send", self._counted)

    def _counted(self, data: memoryview) -> int | None:
        taken = self._send(data)
        self.sent += taken or 0
        return taken


def test_a_stream_arrives_and_less_goes(
    coded: tuple[Link, Link], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = coded
    wire = Wire(left, monkeypatch)
    parts = [b"", text(3 * MIB + 17), b"x", os.urandom(MAX_CHUNK + 1), bytes(MAX_CHUNK), b"yy" * 31, text(100)]
    counted: list[tuple[int, int]] = []
    sending = pool.submit(left.send_chunks, iter(parts), on_bytes=lambda *counts: counted.append(counts))
    got = list(right.recv_chunks(timeout=SOON))
    sending.result(SOON)
    assert b"".join(got) == b"".join(parts)
    assert max(map(len, got)) <= MAX_CHUNK
    sent, content = (sum(counts) for counts in zip(*counted, strict=True))
    assert content == len(b"".join(parts))
    assert wire.sent == sent + LENGTH.size * (len(counted) + 1)
    assert sent < MAX_CHUNK + 2 * MIB
    right.send(b"thanks")
    assert left.recv_exact(6, timeout=SOON) == b"thanks"


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 70_000), st.sampled_from([text, os.urandom, bytes])), max_size=5))
def test_whatever_it_is_it_arrives(made: list[tuple[int, object]]) -> None:
    parts = [make(size) for size, make in made]  # type: ignore[operator]
    left, right = (Link(sock, "peer") for sock in socket.socketpair())
    compress(left, right)
    with ThreadPoolExecutor(1) as pool, contextlib.closing(left), contextlib.closing(right):
        pool.submit(left.send_chunks, parts)
        assert b"".join(right.recv_chunks(timeout=SOON)) == b"".join(parts)


@pytest.mark.parametrize("content", [os.urandom(1000), b"\0" * (codec.SMALLEST - 1)])
def test_what_would_not_get_smaller_goes_as_it_is(coded: tuple[Link, Link], content: bytes) -> None:
    left, right = coded
    left.send_chunks([content])
    assert right.recv_exact(LENGTH.size + len(content), timeout=SOON) == LENGTH.pack(len(content)) + content


def test_an_answer_travels_as_one_frame(coded: tuple[Link, Link]) -> None:
    left, right = coded
    memory = Memory({1: os.getpid()})
    kept = bytearray(4 * PAGE)
    kept[:] = text(len(kept))
    address = int.from_bytes(struct.pack("P", id(kept)), sys.byteorder)  # some page that is there
    wish = Wish(1, address - address % PAGE, 1)
    sent = left.send_chunk(Answer().fill(memory, wish))
    memory.close()
    (word,) = LENGTH.unpack(right.recv_exact(LENGTH.size, timeout=SOON))
    assert word == sent | PACKED
    content = zstandard.ZstdDecompressor().decompress(right.recv_exact(sent, timeout=SOON))
    assert content[:ANSWER_BYTES] == wish.answer(PAGE) and len(content) == ANSWER_BYTES + PAGE > sent


def test_a_relay_packs_one_way(coded: tuple[Link, Link], pool: ThreadPoolExecutor) -> None:
    left, right = coded
    there, back = text(9 * MIB + 5) + os.urandom(MIB) + bytes(MIB), text(5 * MIB + 3)
    counted: list[tuple[int, int]] = []
    (a, near), (b, far) = socket.socketpair(), socket.socketpair()
    with a, near, b, far:
        ends = [
            pool.submit(left.relay, near, on_bytes=lambda *counts: counted.append(counts)),
            pool.submit(right.relay, far),
        ]
        writers = [pool.submit(write_all, a, there), pool.submit(write_all, b, back)]
        at_a, at_b = pool.submit(read_all, a), pool.submit(read_all, b)
        assert at_b.result(SOON) == there
        assert at_a.result(SOON) == back
        assert [end.result(SOON) for end in ends] == [(len(there), len(back)), (len(back), len(there))]
        for writer in writers:
            writer.result(SOON)
    sent, content = (sum(counts) for counts in zip(*counted, strict=True))
    assert content == len(there) + len(back)
    assert len(back) + MIB < sent < len(back) + 7 * MIB


def write_all(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def read_all(sock: socket.socket) -> bytes:
    sock.settimeout(SOON)
    return b"".join(iter(lambda: sock.recv(MIB), b""))


def test_what_comes_for_a_dead_local_end_is_dropped(coded: tuple[Link, Link], pool: ThreadPoolExecutor) -> None:
    left, right = coded
    near, far = socket.socketpair()
    far.close()
    with near:
        receiving = pool.submit(right.relay, near)
        for _ in range(3):
            assert left.send_chunk(memoryview(bytearray(LENGTH.size + MIB))) < MIB
        left.send(LENGTH.pack(0))
        assert receiving.result(SOON) == (0, 3 * MIB)
        assert left.recv_exact(LENGTH.size, timeout=SOON) == LENGTH.pack(0)


# What no P.Haul sends


def bomb(size: int) -> bytes:
    """A small frame of so many zeros."""
    packing = zstandard.ZstdCompressor(level=1).compressobj(size=size)
    return b"".join(packing.compress(bytes(MIB)) for _ in range(size // MIB)) + packing.flush()


def lying(size: int) -> bytes:
    """A frame of 1000 zeros whose header says another size."""
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(1000)))
    at = frame.index(struct.pack("<H", 1000 - 256))
    struct.pack_into("<H", frame, at, size - 256)
    return bytes(frame)


FRAME = zstandard.ZstdCompressor().compress(text(1000))
HARM = {
    "bomb": bomb(1 << 30),
    "more than a chunk": zstandard.ZstdCompressor().compress(bytes(MAX_CHUNK + 1)),
    "no size": zstandard.ZstdCompressor(write_content_size=False).compress(text(1000)),
    "nothing": zstandard.ZstdCompressor().compress(b""),
    "truncated": FRAME[:-1],
    "a header alone": FRAME[:6],
    "one byte": b"\x28",
    "garbage": random.Random(1).randbytes(1000),
    "two frames": FRAME + FRAME,
    "a byte more": FRAME + b"\0",
    "skippable": struct.pack("<II", 0x184D2A50, 4) + b"skip",
    "longer than it says": lying(999),
    "shorter than it says": lying(1001),
}


@pytest.mark.parametrize("relayed", [False, True], ids=["stream", "relay"])
@pytest.mark.parametrize("harm", HARM)
def test_frames_that_are_none_are_refused(coded: tuple[Link, Link], harm: str, relayed: bool) -> None:
    left, right = coded
    left.send(LENGTH.pack(PACKED | len(HARM[harm])) + HARM[harm])
    local, other = socket.socketpair()
    tracemalloc.start()
    try:
        with local, other, pytest.raises(ProtocolError, match=r"^.* sent a compressed chunk .{10,}\.$") as caught:
            right.relay(local) if relayed else next(right.recv_chunks(timeout=SOON))
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()
    assert "\n" not in caught.value.sentence


@pytest.mark.parametrize("relayed", [False, True], ids=["stream", "relay"])
@pytest.mark.parametrize("word", [PACKED, PACKED | MAX_CHUNK + 1, 0xFFFFFFFF, MAX_CHUNK + 1])
def test_lengths_that_cannot_be_are_refused_before_more_is_read(
    coded: tuple[Link, Link], word: int, relayed: bool
) -> None:
    left, right = coded
    left.send(LENGTH.pack(word))
    local, other = socket.socketpair()
    with local, other, pytest.raises(ProtocolError, match="announced a chunk"):
        right.relay(local) if relayed else next(right.recv_chunks(timeout=SOON))


@pytest.mark.parametrize("relayed", [False, True], ids=["stream", "relay"])
def test_without_a_codec_a_frame_is_too_long_a_chunk(pair: tuple[Link, Link], relayed: bool) -> None:
    """Also on the way back of a channel that has one."""
    left, right = pair
    compress(right, left)
    left.send(LENGTH.pack(PACKED | len(FRAME)) + FRAME)
    local, other = socket.socketpair()
    with local, other, pytest.raises(ProtocolError, match=f"a chunk of {PACKED + len(FRAME)} bytes"):
        right.relay(local) if relayed else next(right.recv_chunks(timeout=SOON))


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(FRAME) - 1), st.integers(0, 255)), max_size=8), st.integers(1, len(FRAME)))
def test_whatever_a_frame_is_it_does_no_more_than_fail(changes: list[tuple[int, int]], length: int) -> None:
    frame = bytearray(FRAME)
    for at, byte in changes:
        frame[at] = byte
    try:
        assert 0 < len(Unpacker("peer", MAX_CHUNK).unpack(bytes(frame[:length]))) <= MAX_CHUNK
    except ProtocolError as error:
        assert error.sentence.startswith("peer sent a compressed chunk ")


# The greeting


@pytest.fixture
def links() -> Iterator[tuple[Link, Link]]:
    left, right = (Link(sock, name) for sock, name in zip(socket.socketpair(), ("target", "source"), strict=True))
    with contextlib.closing(left), contextlib.closing(right):
        yield left, right


def test_the_hello_agrees_on_it(links: tuple[Link, Link], pool: ThreadPoolExecutor) -> None:
    welcoming = pool.submit(welcome, links[1])
    ours = greet(links[0], "data", b"token", "tree:0", packing="zstd")
    theirs, hello = welcoming.result(SOON)
    assert hello.codec == "zstd"
    assert ours.link.packer and theirs.link.unpacker
    assert not ours.link.unpacker and not theirs.link.packer


@pytest.mark.parametrize("purpose", ["data", "control"])
def test_without_a_word_it_is_plain(links: tuple[Link, Link], pool: ThreadPoolExecutor, purpose: str) -> None:
    welcoming = pool.submit(welcome, links[1])
    greet(links[0], purpose)
    welcoming.result(SOON)
    assert [end for link in links for end in (link.packer, link.unpacker) if end] == []


@pytest.mark.parametrize(
    ("purpose", "name"), [("control", "zstd"), ("data", "lzma"), ("data", "ZSTD"), ("", "zstd"), ("data", "x" * 9999)]
)
def test_what_is_not_spoken_is_refused(links: tuple[Link, Link], purpose: str, name: str) -> None:
    ours = Connection(links[0])
    ours.send(Hello(protocol=PROTOCOL, version="1", purpose=purpose, codec=name))
    with pytest.raises(ProtocolError, match="not spoken here"):
        welcome(links[1])
    failure = ours.recv(HelloReply, timeout=SOON).failure
    assert failure.status == 6 and len(failure.sentence) < 200
    assert links[1].unpacker is None


def test_a_host_that_cannot(links: tuple[Link, Link], monkeypatch: pytest.MonkeyPatch) -> None:
    assert codec.possible()
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert not codec.possible()
    with pytest.raises(Refused, match=f"install the package {codec.PACKAGE}") as caught:
        greet(links[0], "data", packing="zstd")
    assert caught.value.code == "compress"
    Connection(links[0]).send(Hello(protocol=PROTOCOL, version="1", purpose="data", codec="zstd"))
    with pytest.raises(Refused, match="zstandard is not on"):
        welcome(links[1])
    assert Connection(links[0]).recv(HelloReply, timeout=SOON).failure.code == "compress"
