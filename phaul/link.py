"""One bidirectional, authenticated byte stream between two hosts.

A link lives on a socket: a TLS one, or a local one whose far end an ssh client holds. One thread at
a time uses it; any thread may close it. Whatever goes wrong with it is a LinkLost.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from phaul.codec import Packer, Unpacker
from phaul.errors import LinkLost
from phaul.relay import LENGTH, MAX_CHUNK, SLICE, Count, Inward, Outward, chunk_length, framed, packed

LOG = logging.getLogger("phaul.link")

SILENCE_S = 60.0
STREAM_SILENCE_S = 600.0
LINGER_S = 5.0
DEAD_AFTER_MS = 15_000

_TICK_S = 1.0
_TCP_INFO = struct.Struct("=8B13I")


def drain_tls_errors() -> None:
    """Empty this thread's OpenSSL error queue.

    What a failed connection leaves there, the next connection's read in this thread would raise as
    its own failure. Refusing a cipher list is a call that clears the queue in every Python.
    """
    with contextlib.suppress(ssl.SSLError):
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers("NO-SUCH-CIPHER")


def peer_vanished(info: bytes) -> bool:
    """Whether a TCP_INFO says that nothing was acknowledged for 15 s although something was to be.

    Keep-alive probes rest while data is on the way, and a retransmission gives up only after a
    quarter of an hour. A slow receiver acknowledges each probe, so its unanswered count stays low.
    """
    if len(info) < _TCP_INFO.size:
        return False
    fields = _TCP_INFO.unpack_from(info)
    retransmits, probes = fields[2], fields[3]
    unacked, last_ack_ms = fields[12], fields[20]
    return bool(last_ack_ms > DEAD_AFTER_MS and ((unacked > 0 and retransmits > 0) or probes >= 3))


class Link:
    """A byte stream to `peer` over a connected socket, which the link owns from now on.

    Every `timeout` is in seconds and limits silence, that is time without a byte moving; None waits
    as long as the peer's host answers. Chunks, and nothing else, go through `packer` and `unpacker`
    where the greeting set one.
    """

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.peer = peer
        self.packer: Packer | None = None
        self.unpacker: Unpacker | None = None
        self.of_root = False  # whoever is at its other end is root on this host
        self.certificate = b""  # that its other end showed, in DER
        self._sock = sock
        self._closed = False
        self._in_use = threading.RLock()
        self._wants = select.POLLIN
        self._tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
        sock.setblocking(False)
        if self._tcp:
            _set_up_tcp(sock)

    def fileno(self) -> int:
        return self._sock.fileno()

    def is_dead(self) -> bool:
        """Whether the peer has ended it, or its host does not answer; from any thread, while nobody uses the link."""
        poller = select.poll()
        poller.register(self._sock, select.POLLRDHUP)
        if poller.poll(0):
            return True
        return self._tcp and peer_vanished(self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256))

    def close(self) -> None:
        """End the link, from any thread; a thread that is using it gets LinkLost."""
        self._closed = True
        if not self._in_use.acquire(blocking=False):
            # SSLSocket.shutdown would take the TLS layer away under the other thread's hands,
            # which would then read ciphertext. That thread closes the socket when it is out.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
            return
        try:
            self._say_farewell()
            self._sock.close()
        finally:
            self._in_use.release()

    def send(self, data: bytes | bytearray | memoryview, *, timeout: float | None = SILENCE_S) -> None:
        """Send all of it. Raises LinkLost."""
        left = memoryview(data).cast("B")
        with self._using():
            while left:
                taken = self.try_send(left[:SLICE])
                if taken is None:
                    self._wait(timeout)
                else:
                    left = left[taken:]

    def recv(self, n_max: int, *, timeout: float | None = SILENCE_S) -> bytes:
        """What is there, at least a byte and at most `n_max`; b"" once the peer ended. Raises LinkLost."""
        buffer = bytearray(min(n_max, MAX_CHUNK))
        with self._using():
            return bytes(buffer[: self._recv_some(memoryview(buffer), timeout)])

    def recv_exact(self, n: int, *, timeout: float | None = SILENCE_S) -> bytes:
        """Exactly `n` bytes. Raises LinkLost, also where the link ends before."""
        buffer = bytearray(n)
        left = memoryview(buffer)
        with self._using():
            while left:
                got = self._recv_some(left, timeout)
                if not got:
                    raise self.lost("it ended before all was received")
                left = left[got:]
        return bytes(buffer)

    def send_chunk(self, room: memoryview, *, timeout: float | None = SILENCE_S) -> int:
        """Send one chunk, whose content lies behind room for its length; how many bytes it went as. Raises LinkLost."""
        chunk = framed(room, self.packer)
        self.send(chunk, timeout=timeout)
        return len(chunk) - LENGTH.size

    def send_chunks(
        self, parts: Iterable[bytes], *, on_bytes: Count = lambda *_: None, timeout: float | None = SILENCE_S
    ) -> None:
        """Send a stream and its end; `on_bytes` is told of each chunk before it goes. Raises LinkLost.

        Where the peer speaks before the end it wants no more: the rest is not sent, and the peer's
        next message says why. Where `parts` raises, the stream is unfinished: close the link.
        """
        for part in parts:
            for start in range(0, len(part), MAX_CHUNK):
                if self._peer_speaks():
                    return
                piece = memoryview(part)[start : start + MAX_CHUNK]
                head, body = packed(piece, self.packer)
                on_bytes(len(body), len(piece))
                self.send(head, timeout=timeout)
                self.send(body, timeout=timeout)
        self.send(LENGTH.pack(0), timeout=timeout)

    def recv_chunks(self, *, timeout: float | None = STREAM_SILENCE_S) -> Iterator[bytes]:
        """The stream that the peer sends with `send_chunks`, to its end. Raises LinkLost, ProtocolError."""
        unpacker = self.unpacker
        while True:
            header = self.recv_exact(LENGTH.size, timeout=timeout)
            length, is_packed = chunk_length(self.peer, header, packable=unpacker is not None)
            if not length:
                return
            body = self.recv_exact(length, timeout=timeout)
            yield unpacker.unpack(body) if unpacker and is_packed else body

    def relay(self, local: socket.socket, *, on_bytes: Count = lambda *_: None) -> tuple[int, int]:
        """Carry bytes both ways between the link and a local socket until both directions ended.

        The peer must relay as well. `on_bytes` is told of every piece that moved, either way. Where
        the local end dies, what still comes for it is dropped until the peer ends, so the link stays
        usable afterwards. The local socket stays open: it is the caller's. Returns the number of
        bytes (to the link, from the link) at the local end. Raises LinkLost, ProtocolError.
        """
        before = local.gettimeout()
        local.setblocking(False)
        outward, inward = Outward(self, local, on_bytes), Inward(self, local, on_bytes)
        try:
            with self._using():
                while not (outward.done and inward.done):
                    # Both get their turn each time: neither may starve the other.
                    moved = [outward.step(), inward.step()]
                    if not any(moved):
                        self._wait_either(outward, inward, local)
        finally:
            with contextlib.suppress(OSError):
                local.settimeout(before)
        return outward.total, inward.total

    def linger(self, *, timeout: float = LINGER_S) -> None:
        """Drop what the peer still sends until it ends, for `timeout` seconds at most, before a close.

        Closing with bytes unread resets the connection, which can overtake our last words.
        """
        until = time.monotonic() + timeout
        with contextlib.suppress(LinkLost):
            while (left := until - time.monotonic()) > 0 and self.recv(MAX_CHUNK, timeout=left):
                pass

    def lost(self, reason: str) -> LinkLost:
        return LinkLost(f"The connection to {self.peer} was lost: {reason}.")

    def try_send(self, data: memoryview) -> int | None:
        """How much of `data` was taken; None: nothing, and it must be offered again unchanged."""
        self._wants = select.POLLOUT
        return self._attempt(lambda: self._sock.send(data))

    def try_recv(self, view: memoryview) -> int | None:
        """How many bytes came into `view`, 0 once the peer ended; None: nothing is there yet."""
        self._wants = select.POLLIN
        return self._attempt(lambda: self._sock.recv_into(view))

    def _attempt(self, call: Callable[[], int]) -> int | None:
        self._must_be_open()
        try:
            if not (moved := call()):
                # Our own close looks like the peer's end.
                self._must_be_open()
            return moved
        except ssl.SSLWantReadError:
            self._wants = select.POLLIN
        except ssl.SSLWantWriteError:
            self._wants = select.POLLOUT
        except BlockingIOError:
            pass
        except (OSError, ValueError) as exc:
            if isinstance(self._sock, ssl.SSLSocket):
                drain_tls_errors()
            self._must_be_open()
            raise self.lost(_reason(exc)) from exc
        return None

    def _recv_some(self, view: memoryview, timeout: float | None) -> int:
        while (got := self.try_recv(view)) is None:
            self._wait(timeout)
        return got

    def _peer_speaks(self) -> bool:
        with self._using():
            self._must_be_open()
            if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
                return True
            poller = select.poll()
            poller.register(self._sock, select.POLLIN)
            return bool(poller.poll(0))

    def _wait(self, timeout: float | None) -> None:
        """Wait until the last attempt is worth another."""
        poller = select.poll()
        poller.register(self._sock, self._wants)
        until = None if timeout is None else time.monotonic() + timeout
        while not poller.poll(_milliseconds(until)):
            self._must_be_alive()
            if until is not None and time.monotonic() >= until:
                raise self.lost(f"it was silent for {timeout:g} s")

    def _wait_either(self, outward: Outward, inward: Inward, local: socket.socket) -> None:
        link_events = (select.POLLOUT if outward.waiting else 0) | (select.POLLIN if inward.wants_link else 0)
        local_events = (select.POLLIN if outward.wants_local else 0) | (select.POLLOUT if inward.waiting else 0)
        poller = select.poll()
        # An end of which nothing is wanted is left out: its hang-up would be reported for ever.
        if link_events:
            poller.register(self._sock, link_events)
        if local_events:
            poller.register(local, local_events)
        while not poller.poll(_milliseconds(None)):
            self._must_be_alive()

    def _must_be_open(self) -> None:
        if self._closed:
            raise self.lost("it was closed on this host")

    def _must_be_alive(self) -> None:
        self._must_be_open()
        if self._tcp and peer_vanished(self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)):
            raise self.lost("its host has not answered for 15 s")

    @contextlib.contextmanager
    def _using(self) -> Iterator[None]:
        try:
            with self._in_use:
                yield
        finally:
            if self._closed:
                self.close()

    def _say_farewell(self) -> None:
        if isinstance(self._sock, ssl.SSLSocket):
            try:
                # Tells a wanted end from one that an attacker on the way made.
                self._sock.unwrap()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except (OSError, ValueError):
                drain_tls_errors()
                LOG.debug("no farewell to %s", self.peer)
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


def _milliseconds(until: float | None) -> float:
    """How long one poll may take: never longer than until the peer's pulse is felt again."""
    left = _TICK_S if until is None else min(_TICK_S, until - time.monotonic())
    return max(0.0, left) * 1000


def _set_up_tcp(sock: socket.socket) -> None:
    # A host that vanished is noticed after 5 + 3 x 3 s. TCP_USER_TIMEOUT would end slow receivers too.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLEOFError):
        return "it ended without a farewell"
    if isinstance(exc, ssl.SSLError):
        return f"TLS failed ({exc.reason or exc})"
    return str(getattr(exc, "strerror", None) or exc).lower()
