"""The two halves of a relay between a stream and a local socket, and the framing of both.

Bytes travel in chunks: a 4-byte big-endian length and that many bytes, at most MAX_CHUNK; length 0
ends the stream. So a stream can end while what carries it lives on. Where the Hello agreed on a codec,
a length with its top bit set announces a frame of it (codec.py), whose content is such a chunk.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from phaul.codec import Packer, Unpacker
from phaul.errors import LinkLost, ProtocolError

MAX_CHUNK = 1 << 20
LENGTH = struct.Struct(">I")
PACKED = 1 << 31
# Of a chunk that is sent: how many bytes went, and how many they were before they were packed.
Count = Callable[[int, int], None]
# OpenSSL takes a write whole or not at all, and wants it offered again unchanged: small slices
# keep the memory that a stalled write holds small.
SLICE = 64 << 10
_RELAYED = 256 << 10


class Stream(Protocol):
    """What a relay needs of a link: attempts that return None where they would block."""

    peer: str
    packer: Packer | None
    unpacker: Unpacker | None

    def try_send(self, data: memoryview) -> int | None: ...

    def try_recv(self, view: memoryview) -> int | None: ...

    def lost(self, reason: str) -> LinkLost: ...


def chunk_length(peer: str, header: bytes, *, packable: bool) -> tuple[int, bool]:
    """What a chunk's first 4 bytes announce: its length, and whether it is packed, which only a codec makes `packable`.

    Raises ProtocolError where it is too much, or a packed nothing.
    """
    (word,) = LENGTH.unpack(header)
    packed = packable and word >= PACKED
    length = word - PACKED if packed else word
    if length > MAX_CHUNK or (packed and not length):
        raise ProtocolError(f"{peer} announced a chunk of {length} bytes; at most {MAX_CHUNK} are allowed.")
    return int(length), packed


def packed(content: memoryview, packer: Packer | None) -> tuple[bytes, memoryview]:
    """The chunk with that content: its first 4 bytes, and the others, which are the content itself if not packed."""
    frame = packer.pack(content) if packer else None
    if frame is None:
        return LENGTH.pack(len(content)), content
    return LENGTH.pack(len(frame) | PACKED), memoryview(frame)


def framed(room: memoryview, packer: Packer | None) -> memoryview:
    """The chunk whose content lies behind room for 4 bytes, in one piece; it lies in place if not packed."""
    content = room[LENGTH.size :]
    head, body = packed(content, packer)
    if body is not content:
        return memoryview(head + body)
    room[: LENGTH.size] = head
    return room


class Outward:
    """The half of a relay that carries chunks from the local socket to the link."""

    def __init__(self, link: Stream, local: socket.socket, count: Count) -> None:
        self._link, self._local, self._count = link, local, count
        self._frame = memoryview(bytearray(LENGTH.size + _RELAYED))
        self.waiting = memoryview(b"")
        self.wants_local = True
        self.done = False
        self.total = 0

    def step(self) -> bool:
        """Move what can be moved now; False: nothing could."""
        if self.waiting:
            return self._write()
        return self.wants_local and self._read()

    def _write(self) -> bool:
        taken = self._link.try_send(self.waiting[:SLICE])
        if taken is None:
            return False
        self.waiting = self.waiting[taken:]
        self.done = not self.waiting and not self.wants_local
        return True

    def _read(self) -> bool:
        try:
            got = self._local.recv_into(self._frame[LENGTH.size :])
        except BlockingIOError:
            return False
        except OSError:
            got = 0
        self.wants_local = got > 0
        self.waiting = framed(self._frame[: LENGTH.size + got], self._link.packer)
        self.total += got
        self._count(len(self.waiting) - LENGTH.size, got)
        return True


class Inward:
    """The half of a relay that carries chunks from the link to the local socket."""

    def __init__(self, link: Stream, local: socket.socket, count: Count) -> None:
        self._link, self._local, self._count = link, local, count
        self._buffer = memoryview(bytearray(_RELAYED))
        self._header = memoryview(bytearray(LENGTH.size))
        self._header_got = 0
        self._chunk_left = 0
        self._packed = False
        self._frame = bytearray()
        self._frame_got = 0
        self._local_died = False
        self.waiting = memoryview(b"")
        self.done = False
        self.total = 0

    @property
    def wants_link(self) -> bool:
        return not self.done and not self.waiting

    def step(self) -> bool:
        """Move what can be moved now; False: nothing could."""
        if self.waiting:
            return self._write()
        if self.done:
            return False
        if self._packed:
            got = self._gather(memoryview(self._frame)[self._frame_got : self._chunk_left])
            self._take_packed(got)
            return got > 0
        if self._chunk_left:
            got = self._gather(self._buffer[: self._chunk_left])
            self._take_bytes(got)
            return got > 0
        got = self._gather(self._header[self._header_got :])
        self._take_header(got)
        return got > 0

    def _gather(self, into: memoryview) -> int:
        """As much as is there: TLS gives 16 KiB at a time, and the local socket is to be written to less often."""
        total = 0
        while total < len(into):
            got = self._link.try_recv(into[total:])
            if got is None:
                break
            if not got:
                raise self._link.lost("it ended in the middle of a stream")
            total += got
        return total

    def _take_bytes(self, got: int) -> None:
        if not got:
            return
        self._chunk_left -= got
        self._pass_on(self._buffer[:got], got)

    def _take_packed(self, got: int) -> None:
        """A frame can be unpacked only when it is whole."""
        self._frame_got += got
        length, unpacker = self._chunk_left, self._link.unpacker
        if self._frame_got < length or unpacker is None:
            return
        self._chunk_left, self._packed, self._frame_got = 0, False, 0
        self._pass_on(memoryview(unpacker.unpack(memoryview(self._frame)[:length])), length)

    def _pass_on(self, content: memoryview, came: int) -> None:
        self.total += len(content)
        self._count(came, len(content))
        if not self._local_died:
            self.waiting = content

    def _take_header(self, got: int) -> None:
        self._header_got += got
        if self._header_got < LENGTH.size:
            return
        self._header_got = 0
        packable = self._link.unpacker is not None
        self._chunk_left, self._packed = chunk_length(self._link.peer, bytes(self._header), packable=packable)
        if self._packed and len(self._frame) < self._chunk_left:
            self._frame = bytearray(self._chunk_left)
        if not self._chunk_left:
            self.done = True
            with contextlib.suppress(OSError):
                self._local.shutdown(socket.SHUT_WR)

    def _write(self) -> bool:
        try:
            self.waiting = self.waiting[self._local.send(self.waiting) :]
        except BlockingIOError:
            return False
        except OSError:
            self._local_died = True
            self.waiting = memoryview(b"")
        return True
