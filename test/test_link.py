"""Links over real sockets, plain and TLS: whole streams, both ways at once, and every way to die."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from wire import SOON, pair, pool, tcp_pair, tls_pair

from phaul.errors import LinkLost, ProtocolError
from phaul.link import Link, peer_vanished
from phaul.relay import MAX_CHUNK

__all__ = ["pair", "pool"]

MIB = 1 << 20


def raw(link: Link) -> socket.socket:
    return link._sock


def test_bytes_arrive(pair: tuple[Link, Link]) -> None:
    left, right = pair
    left.send(b"hello")
    assert right.recv_exact(5, timeout=SOON) == b"hello"
    right.send(memoryview(b"and back"))
    assert left.recv(100, timeout=SOON) == b"and back"


def test_a_proper_end_is_no_failure(pair: tuple[Link, Link]) -> None:
    left, right = pair
    left.send(b"last")
    left.close()
    assert right.recv_exact(4, timeout=SOON) == b"last"
    assert right.recv(10, timeout=SOON) == b""


def test_an_end_in_the_middle_is_link_lost(pair: tuple[Link, Link]) -> None:
    left, right = pair
    left.send(b"abc")
    left.close()
    with pytest.raises(LinkLost, match=r"connection to .* was lost: it ended before all"):
        right.recv_exact(4, timeout=SOON)


def test_silence_is_link_lost(pair: tuple[Link, Link]) -> None:
    with pytest.raises(LinkLost, match="silent"):
        pair[0].recv(1, timeout=0.05)


def test_a_peer_that_does_not_read_is_link_lost(pair: tuple[Link, Link]) -> None:
    with pytest.raises(LinkLost, match="silent"):
        pair[0].send(bytes(64 * MIB), timeout=0.2)


def test_close_wakes_the_thread_that_waits(pair: tuple[Link, Link], pool: ThreadPoolExecutor) -> None:
    left, _ = pair
    started = threading.Event()

    def wait() -> bytes:
        started.set()
        return left.recv(1, timeout=None)

    waiting = pool.submit(wait)
    assert started.wait(SOON)
    left.close()
    with pytest.raises(LinkLost, match="closed on this host"):
        waiting.result(SOON)
    assert left.fileno() == -1


def test_use_after_close(pair: tuple[Link, Link]) -> None:
    left, _ = pair
    left.close()
    left.close()
    for use in (lambda: left.send(b"x"), lambda: left.recv(1), lambda: left.send_chunks([b"x"])):
        with pytest.raises(LinkLost, match="closed on this host"):
            use()


def test_reset_is_link_lost(pair: tuple[Link, Link]) -> None:
    left, right = pair
    if raw(left).family == socket.AF_UNIX:
        pytest.skip("a unix socket is never reset")
    raw(left).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(raw(left).detach())
    with pytest.raises(LinkLost, match=r"reset|farewell"):
        right.recv(1, timeout=SOON)
    with pytest.raises(LinkLost):
        right.send(bytes(MIB))


def test_tls_end_without_farewell_is_link_lost(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    left, right = tls_pair(tmp_path, pool)
    with contextlib.closing(right):
        socket.socket.shutdown(raw(left), socket.SHUT_RDWR)
        with pytest.raises(LinkLost, match="farewell"):
            right.recv(1, timeout=SOON)
    left.close()


def test_a_failed_link_leaves_nothing_to_the_next_one(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    (broken, garbler), (left, right) = tls_pair(tmp_path / "1", pool), tls_pair(tmp_path / "2", pool)
    with contextlib.closing(left), contextlib.closing(right), contextlib.closing(broken):
        socket.socket.send(raw(garbler), b"this is no TLS record at all")
        with pytest.raises(LinkLost, match="TLS failed"):
            broken.recv(1, timeout=SOON)
        right.send(b"ok")
        assert left.recv_exact(2, timeout=SOON) == b"ok"
    garbler.close()


def test_chunks_carry_a_stream_and_leave_the_link_usable(pair: tuple[Link, Link], pool: ThreadPoolExecutor) -> None:
    left, right = pair
    parts = [b"", os.urandom(3 * MIB + 17), b"x", os.urandom(MAX_CHUNK)]
    sending = pool.submit(left.send_chunks, iter(parts))
    got = list(right.recv_chunks(timeout=SOON))
    sending.result(SOON)
    assert b"".join(got) == b"".join(parts)
    assert max(map(len, got)) <= MAX_CHUNK
    right.send(b"thanks")
    assert left.recv_exact(6, timeout=SOON) == b"thanks"


def test_an_oversize_chunk_is_refused_before_it_is_read(pair: tuple[Link, Link]) -> None:
    left, right = pair
    left.send(struct.pack(">I", MAX_CHUNK + 1))
    with pytest.raises(ProtocolError, match="announced a chunk"):
        next(right.recv_chunks(timeout=SOON))


def test_a_stream_stops_where_the_receiver_speaks(pair: tuple[Link, Link], pool: ThreadPoolExecutor) -> None:
    left, right = pair
    endless = iter(lambda: bytes(MIB), None)
    sending = pool.submit(left.send_chunks, endless)
    next(right.recv_chunks(timeout=SOON))
    right.send(b"no")
    lingering = pool.submit(right.linger, timeout=SOON)
    sending.result(SOON)
    assert left.recv_exact(2, timeout=SOON) == b"no"
    left.close()
    lingering.result(SOON)


class Relayed:
    """An application at each end of a relayed link: a, left ~ right, b."""

    def __init__(self, pair: tuple[Link, Link], pool: ThreadPoolExecutor) -> None:
        self.left, self.right = pair
        self.a, near = socket.socketpair()
        self.b, far = socket.socketpair()
        self.moved: list[int] = []
        self.locals = (near, far)
        self.near: Future[Any] = pool.submit(self.left.relay, near, on_bytes=self._count)
        self.far: Future[Any] = pool.submit(self.right.relay, far)
        for sock in (self.a, self.b):
            sock.settimeout(SOON)

    def _count(self, sent: int, content: int) -> None:
        assert sent == content
        self.moved.append(sent)

    def close(self) -> None:
        for sock in (self.a, self.b, *self.locals):
            sock.close()
        self.left.close()
        self.right.close()


@pytest.fixture
def relayed(pair: tuple[Link, Link], pool: ThreadPoolExecutor) -> Iterator[Relayed]:
    made = Relayed(pair, pool)
    yield made
    made.close()


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(MIB), b""))


def write_all(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def test_relay_both_ways_at_once(relayed: Relayed, pool: ThreadPoolExecutor) -> None:
    there, back = os.urandom(9 * MIB + 5), os.urandom(5 * MIB + 3)
    writers = [pool.submit(write_all, relayed.a, there), pool.submit(write_all, relayed.b, back)]
    at_a, at_b = pool.submit(read_all, relayed.a), pool.submit(read_all, relayed.b)
    assert at_b.result(SOON) == there
    assert at_a.result(SOON) == back
    for writer in writers:
        writer.result(SOON)
    assert relayed.near.result(SOON) == (len(there), len(back))
    assert relayed.far.result(SOON) == (len(back), len(there))
    assert sum(relayed.moved) == len(there) + len(back)
    relayed.left.send(b"still here")
    assert relayed.right.recv_exact(10, timeout=SOON) == b"still here"


def test_relay_passes_an_end_on_while_the_other_way_lives(relayed: Relayed) -> None:
    write_all(relayed.a, b"question")
    assert read_all(relayed.b) == b"question"
    write_all(relayed.b, b"answer")
    assert read_all(relayed.a) == b"answer"
    assert relayed.near.result(SOON) == (8, 6)
    assert relayed.far.result(SOON) == (6, 8)


def test_relay_outlives_a_local_end_that_died(relayed: Relayed, pool: ThreadPoolExecutor) -> None:
    relayed.b.close()
    assert read_all(relayed.a) == b""
    write_all(relayed.a, bytes(3 * MIB))
    assert relayed.near.result(SOON) == (3 * MIB, 0)
    assert relayed.far.result(SOON) == (0, 3 * MIB)
    relayed.right.send(b"ok")
    assert relayed.left.recv_exact(2, timeout=SOON) == b"ok"


def test_relay_ends_with_its_link(relayed: Relayed) -> None:
    relayed.a.sendall(b"something")
    assert relayed.b.recv(9) == b"something"
    relayed.left.close()
    for end in (relayed.near, relayed.far):
        with pytest.raises(LinkLost):
            end.result(SOON)


def test_relay_refuses_an_oversize_chunk(pair: tuple[Link, Link]) -> None:
    left, right = pair
    local, other = socket.socketpair()
    with local, other:
        left.send(struct.pack(">I", 0xFFFFFFFF))
        with pytest.raises(ProtocolError, match="announced a chunk"):
            right.relay(local)


def tcp_info(**fields: int) -> bytes:
    """A TCP_INFO as the kernel lays it out, all zero but for these."""
    at = {"retransmits": 2, "probes": 3, "unacked": 8 + 4 * 4, "last_ack_recv": 8 + 12 * 4}
    info = bytearray(232)
    for name, value in fields.items():
        struct.pack_into("=B" if at[name] < 8 else "=I", info, at[name], value)
    return bytes(info)


@pytest.mark.parametrize(
    ("info", "vanished"),
    [
        (tcp_info(unacked=3, retransmits=4, last_ack_recv=15_001), True),
        (tcp_info(unacked=3, retransmits=4, last_ack_recv=14_000), False),
        (tcp_info(last_ack_recv=3_600_000), False),
        (tcp_info(probes=1, last_ack_recv=60_000), False),
        (tcp_info(probes=3, last_ack_recv=16_000), True),
        (b"", False),
    ],
    ids=["unacknowledged", "not yet", "idle", "slow receiver", "unanswered probes", "none"],
)
def test_when_a_peer_has_vanished(info: bytes, vanished: bool) -> None:
    assert peer_vanished(info) is vanished


def test_the_kernel_lays_tcp_info_out_as_we_read_it() -> None:
    left, right = tcp_pair()
    with left, right:
        left.sendall(b"x")
        right.recv(1)
        info = left.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        assert len(info) >= 72
        assert struct.unpack_from("=I", info, 16)[0] >= 500  # snd_mss
        assert struct.unpack_from("=I", info, 56)[0] < 60_000  # last_ack_recv, in ms


def test_tcp_links_notice_dead_hosts() -> None:
    left, right = tcp_pair()
    with contextlib.closing(Link(left, "peer")), right:
        assert left.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [left.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [5, 3, 3]
