"""Targets that a peer reaches over a link: messages, chunks, frames, pages, images, pairing."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import zstandard

from phaul import forecast, images, pages_store, pages_wire
from phaul.codec import Packer, Unpacker
from phaul.connection import PROTOCOL, Connection, greet, welcome
from phaul.errors import PhaulError
from phaul.keys import Identity, Peers
from phaul.link_probe import sender_of
from phaul.messages_pb2 import Failure, Finding, Hello, HelloReply, ImageFile
from phaul.pages_asker import Asker
from phaul.pages_source import _wishes
from phaul.pages_wire import FORGET, FORGET_TASK, PAGE, Wish
from phaul.pairing import _Side
from phaul.relay import LENGTH, MAX_CHUNK, PACKED

from . import mutators, stage
from .table import Target

LOST = (PhaulError, ConnectionError)


def message(data: bytes) -> bytes:
    """As it travels."""
    return LENGTH.pack(len(data)) + data


def chunks(*parts: bytes) -> bytes:
    return b"".join(map(message, parts)) + LENGTH.pack(0)


# Messages


def hello(data: bytes) -> None:
    with stage.fed(data) as link:
        welcome(link)


def hellos() -> Iterator[bytes]:
    for codec in ("", "zstd", "lzma"):
        said = Hello(protocol=PROTOCOL, version="1", purpose="data", token=b"t" * 16, channel="images", codec=codec)
        yield message(said.SerializeToString())
    yield message(Hello(protocol=9, version="9\x1b[31m", purpose="control").SerializeToString())


def hello_reply(data: bytes) -> None:
    with stage.fed(data) as link:
        try:
            greet(link, "control")
        except PhaulError as error:
            must_be_harmless(error)
            raise


def must_be_harmless(error: PhaulError) -> None:
    """What an error of a peer's says can be shown on a terminal."""
    for said in (error.sentence, error.detail, error.code):
        assert all(line.isprintable() for line in said.split("\n")), said


def hello_replies() -> Iterator[bytes]:
    failure = Failure(code="no\x07", status=3, sentence="No.\x1b[2J", detail="a\nb\u202e")
    found = Finding(code="a", reason="b", remedy="c", subject="d", blocks=True)
    for said in (None, failure, Failure(status=99, blockers=[found, found])):
        yield message(HelloReply(protocol=PROTOCOL, version="1", failure=said).SerializeToString())
    yield message(HelloReply(protocol=1, version="0\r").SerializeToString())


# Chunks and frames


def chunk_stream(data: bytes) -> None:
    with stage.fed(data[1:]) as link:
        link.unpacker = Unpacker("peer", MAX_CHUNK) if data[:1] > b"\x7f" else None
        for chunk in link.recv_chunks():
            assert len(chunk) <= MAX_CHUNK


def relayed(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, stage.fed(data[1:]) as link:
        link.unpacker = Unpacker("peer", MAX_CHUNK) if data[:1] > b"\x7f" else None
        ours.shutdown(socket.SHUT_WR)
        link.relay(theirs)


def streams() -> Iterator[bytes]:
    packed = Packer().pack(b"compressible " * 40) or b""
    for first in (b"\0", b"\xff"):
        yield first + chunks(b"abc", b"x" * 300)
        yield first + LENGTH.pack(PACKED | len(packed)) + packed + message(b"y") + LENGTH.pack(0)
        yield first + LENGTH.pack(MAX_CHUNK + 1)


def frame(data: bytes) -> None:
    assert 0 < len(Unpacker("peer", MAX_CHUNK).unpack(data)) <= MAX_CHUNK


def frames() -> Iterator[bytes]:
    for content in (b"", b"a", bytes(5000), b"words and words " * 50):
        yield zstandard.ZstdCompressor().compress(content)
        yield zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(content)


def pace(data: bytes) -> None:
    with stage.fed(data) as link:
        said = forecast.pace_of(Connection(link))
    assert not said or said.isdecimal()


# Pages


def page_requests(data: bytes) -> None:
    with stage.fed(data) as link:
        for wish in _wishes(link):
            must_be_a_range(wish)


def must_be_a_range(wish: Wish) -> None:
    assert 0 < wish.pages <= pages_wire.MAX_PAGES and wish.start % PAGE == 0 and wish.end < 1 << 63


def requests_for_pages() -> Iterator[bytes]:
    yield chunks(Wish(1, 0x1000, 1).packed(), Wish(2, 0x7F0000000000, 64).packed())
    yield chunks(Wish(1, 0x1000, 1).packed()[:7], Wish(1, 0x1000, 1).packed()[7:])


ASKED = (Wish(1, 0x1000, 1), Wish(1, 0x5000, 2), Wish(7, 0x7000_0000, 64))


def page_answers(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        asker = Asker(theirs)
        for wish in ASKED:
            asker.ask(wish)
        theirs.setblocking(False)
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        for wish in ASKED:
            assert asker.read() == wish, "it read on where the end had come"


def answers() -> Iterator[bytes]:
    yield b"".join(wish.answer(0) for wish in ASKED)
    yield ASKED[0].answer(PAGE) + os.urandom(PAGE) + ASKED[1].answer(0)


def page_store(data: bytes) -> None:
    """Nothing overlaps in it, and it has no more than came."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        store = pages_store.Store()
        try:
            pages_store.receive(theirs, store)
        finally:
            for task in list(store._tasks):
                spans = list(store.spans(task))
                assert all(one[1] <= two[0] for one, two in pairwise(spans)), spans
            assert store.size <= len(data) // pages_wire.ANSWER_BYTES * pages_wire.MAX_PAGES * PAGE
            os.close(store._file)


def stored() -> Iterator[bytes]:
    one, two = Wish(1, 0x1000, 2), Wish(1, 0x2000, 64)
    yield one.answer(0) + two.answer(0) + one.answer(FORGET) + Wish(2, 0, 1).answer(FORGET_TASK)
    yield two.answer(0) + Wish(1, 0x4000, 1).answer(FORGET) + Wish(1, 0, 1).answer(FORGET_TASK)
    yield Wish(3, 0x1000, 1).answer(PAGE) + b"x" * PAGE


# Files


@contextlib.contextmanager
def _directory() -> Iterator[None]:
    global _TOP
    with stage.directory() as _TOP:
        (_TOP / "images").mkdir()
        yield


_TOP = Path("/nonexistent")


def image_files(data: bytes) -> None:
    """Nothing comes to be but plain files in the directory."""
    try:
        with stage.fed(data) as link:
            images.receive(_TOP / "images", Connection(link))
    finally:
        assert os.listdir(_TOP) == ["images"]
        for name in os.listdir(_TOP / "images"):
            assert images.NAME.fullmatch(name) and not os.path.isdir(f"{_TOP}/images/{name}"), name
            os.unlink(f"{_TOP}/images/{name}")


def images_sent() -> Iterator[bytes]:
    end = message(ImageFile().SerializeToString())
    for name, said, content in (("core-1.img", 3, b"abc"), ("../x", 1, b"a"), ("a/b", 0, b""), ("x", 9, b"abc")):
        file = message(ImageFile(name=name, size=said).SerializeToString()) + chunks(content)
        yield file + end
        yield file + file + end


# Pairing, and the link itself


def pairing(data: bytes) -> None:
    """As a target takes it whose code the source has: what it says is pinned."""
    with stage.fed(data) as link:
        theirs = _Side.read(link, 1)
        assert theirs.hostname.isprintable()
        Peers(_TOP).add("10.0.0.9", theirs.pem)


def sides() -> Iterator[bytes]:
    with stage.directory() as top:
        said = _Side.of(Identity.load_or_make(top)).said
    yield said
    yield struct.pack(">BH", 1, 4) + b"junk" + bytes(32) + b"\x02ab"
    yield struct.pack(">BH", 1, 4) + b"junk" + bytes(32) + b"\x03\x1b[m"


def arp(data: bytes) -> None:
    assert len(sender_of(data, b"\x0a\0\0\x02")) in (0, 17)


def arps() -> Iterator[bytes]:
    said = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 2, b"\x02" * 6, b"\x0a\0\0\x02", b"", b"")
    yield bytes(12) + b"\x08\x06" + said


TARGETS = (
    Target("hello", hello, hellos, mutate=mutators.of_frames),
    Target("hello-reply", hello_reply, hello_replies, mutate=mutators.of_frames),
    Target("chunks", chunk_stream, streams),
    Target("relay", relayed, streams),
    Target("frame", frame, frames),
    Target("pace", pace, lambda: [chunks(b"abc"), chunks(*[b"a"] * 70)]),
    Target("page-requests", page_requests, requests_for_pages, mutate=mutators.of_frames),
    Target("page-answers", page_answers, answers, expected=LOST, longest=8192),
    Target("page-store", page_store, stored, expected=LOST, longest=8192),
    Target("images", image_files, images_sent, _directory, mutate=mutators.of_frames),
    Target("pairing", pairing, sides, _directory, longest=4200),
    Target("arp", arp, arps, longest=128),
)
