"""Messages, greetings and requests over a link, with peers that misbehave."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from phaul import VERSION, errors
from phaul.connection import MAX_MESSAGE, PROTOCOL, Connection, failure_of, greet, raise_failure, welcome
from phaul.errors import Blocked, Blocker, HaulFailed, LinkLost, NotTrusted, PhaulError, ProtocolError, Refused
from phaul.link import Link
from phaul.messages_pb2 import Begin, Done, Failure, Hello, HelloReply, Ping, Reply, Request
from phaul.xem_rpc import Caller, serve

SOON = 20


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


@pytest.fixture
def links(pool: ThreadPoolExecutor) -> Iterator[tuple[Link, Link]]:
    """Two ends of one link; closed before the pool waits for who still reads from one."""
    left, right = socket.socketpair()
    with contextlib.closing(Link(left, "10.0.0.2")) as ours, contextlib.closing(Link(right, "10.0.0.1")) as theirs:
        yield ours, theirs


def test_messages_arrive_whole(links: tuple[Link, Link]) -> None:
    ours, theirs = (Connection(link) for link in links)
    for wanted in (b"", b"x" * 100_000):
        ours.send(Request(begin=Begin(haul="h", wanted=wanted)))
        assert theirs.recv(Request, timeout=SOON).begin.wanted == wanted


def test_an_empty_message_is_a_message(links: tuple[Link, Link]) -> None:
    Connection(links[0]).send(Ping())
    assert Connection(links[1]).recv(Ping, timeout=SOON) == Ping()


def test_an_oversize_message_is_refused_at_both_ends(links: tuple[Link, Link]) -> None:
    with pytest.raises(ProtocolError, match="cannot be sent"):
        Connection(links[0]).send(Begin(wanted=bytes(MAX_MESSAGE)))
    links[0].send(struct.pack(">I", MAX_MESSAGE + 1))
    with pytest.raises(ProtocolError, match=r"10\.0\.0\.1 announced a message of 4194305 bytes"):
        Connection(links[1]).recv(Begin, timeout=SOON)


def test_garbage_is_refused(links: tuple[Link, Link]) -> None:
    links[0].send(struct.pack(">I", 8) + b"\xff" * 8)
    with pytest.raises(ProtocolError, match="no message of P"):
        Connection(links[1]).recv(Request, timeout=SOON)


def test_random_bytes_never_do_more_than_fail(pool: ThreadPoolExecutor) -> None:
    for _ in range(50):
        left, right = socket.socketpair()
        with contextlib.closing(Link(right, "stranger")) as link, left:
            left.sendall(os.urandom(200))
            left.shutdown(socket.SHUT_WR)
            with pytest.raises((ProtocolError, LinkLost)):
                Connection(link).recv(Request, timeout=SOON)


def test_the_end_between_messages_and_within_one(links: tuple[Link, Link]) -> None:
    theirs = Connection(links[1])
    links[0].send(b"\0\0")
    links[0].close()
    with pytest.raises(LinkLost, match="before all"):
        theirs.recv_or_end(Ping, timeout=SOON)
    assert theirs.recv_or_end(Ping, timeout=SOON) is None
    with pytest.raises(LinkLost, match="the peer ended it"):
        theirs.recv(Ping, timeout=SOON)


def test_hello(links: tuple[Link, Link], pool: ThreadPoolExecutor) -> None:
    welcoming = pool.submit(welcome, links[1])
    ours = greet(links[0], "data", token=b"secret", channel="memory")
    theirs, hello = welcoming.result(SOON)
    assert hello == Hello(protocol=PROTOCOL, version=VERSION, purpose="data", token=b"secret", channel="memory")
    ours.send(Ping())
    assert theirs.recv(Ping, timeout=SOON) == Ping()


@pytest.mark.parametrize(("number", "older"), [(0, "10.0.0.1"), (PROTOCOL + 1, "this host")])
def test_a_client_of_another_version_is_told(links: tuple[Link, Link], number: int, older: str) -> None:
    ours = Connection(links[0])
    ours.send(Hello(protocol=number, version="9.9"))
    with pytest.raises(ProtocolError, match=rf"speaks protocol {number} \(P\.Haul 9\.9\).*upgrade P\.Haul on {older}"):
        welcome(links[1])
    reply = ours.recv(HelloReply, timeout=SOON)
    assert (reply.protocol, reply.failure.status, reply.failure.code) == (PROTOCOL, 6, "version-mismatch")


@pytest.mark.parametrize(("number", "older"), [(0, "10.0.0.2"), (7, "this host")])
def test_a_service_of_another_version_is_named(links: tuple[Link, Link], number: int, older: str) -> None:
    Connection(links[1]).send(HelloReply(protocol=number, version="0.0.1\x1b[31m"))
    with pytest.raises(
        ProtocolError, match=rf"10\.0\.0\.2 speaks protocol {number}.*upgrade P\.Haul on {older}"
    ) as caught:
        greet(links[0], "control")
    assert "\x1b" not in caught.value.sentence


def test_a_refused_hello_reaches_the_client(links: tuple[Link, Link], pool: ThreadPoolExecutor) -> None:
    def refuse(hello: Hello) -> None:
        raise Refused(f"No haul has the token {hello.token!r}.", code="no-haul")

    welcoming = pool.submit(welcome, links[1], refuse)
    with pytest.raises(Refused, match="No haul has the token b'x'") as caught:
        greet(links[0], "data", token=b"x")
    assert caught.value.code == "no-haul"
    with pytest.raises(Refused):
        welcoming.result(SOON)


@pytest.mark.parametrize("kind", errors.BY_STATUS.values())
def test_failures_travel(kind: type[PhaulError]) -> None:
    with pytest.raises(kind) as caught:
        raise_failure(failure_of(kind("A sentence.", code="some-code", detail="more")))
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.sentence, caught.value.detail) == ("some-code", "A sentence.", "more")


def test_blockers_travel() -> None:
    blockers = (Blocker("one", "First."), Blocker("two", "Second."))
    with pytest.raises(Blocked) as caught:
        raise_failure(Failure.FromString(failure_of(Blocked(blockers)).SerializeToString()))
    assert caught.value.blockers == blockers


class Served:
    """A served connection and its caller."""

    def __init__(self, links: tuple[Link, Link], pool: ThreadPoolExecutor) -> None:
        self.caller = Caller(Connection(links[0]))
        self.link = links[1]
        self.after: list[str] = []
        self.answer: Callable[[Request], Reply] = lambda request: Reply(done=Done(note=request.begin.haul))
        self.ended = pool.submit(serve, Connection(links[1]), self.handle, after=self.follow)

    def handle(self, request: Request) -> Reply:
        return self.answer(request)

    def follow(self, request: Request) -> None:
        self.after.append(request.begin.haul)
        raise RuntimeError("nobody may notice")

    def call(self, haul: str = "h") -> str:
        return self.caller.call(Request(begin=Begin(haul=haul)), timeout=SOON).done.note


@pytest.fixture
def served(links: tuple[Link, Link], pool: ThreadPoolExecutor) -> Served:
    return Served(links, pool)


def test_requests_are_answered_until_the_peer_leaves(served: Served) -> None:
    assert [served.call(name) for name in "abc"] == ["a", "b", "c"]
    served.caller.close()
    served.ended.result(SOON)
    assert served.after == ["a", "b", "c"]


def test_what_a_handler_raises_reaches_the_caller_and_the_connection_goes_on(served: Served) -> None:
    usual = served.answer

    def fail(_: Request) -> Reply:
        raise NotTrusted("No.", code="nope")

    served.answer = fail
    with pytest.raises(NotTrusted, match="No") as caught:
        served.call()
    assert caught.value.code == "nope"
    served.answer = usual
    assert served.call("again") == "again"
    served.caller.close()
    served.ended.result(SOON)
    assert served.after == ["again"]


def test_an_unforeseen_exception_is_logged_and_told(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    usual = served.answer
    served.answer = lambda _: Reply(done=Done(note=str(1 // 0)))
    logger = logging.getLogger("phaul.rpc")
    logger.addHandler(caplog.handler)
    try:
        with pytest.raises(HaulFailed, match=r"ZeroDivisionError.*its log") as caught:
            served.call()
    finally:
        logger.removeHandler(caplog.handler)
    assert caught.value.code == "internal"
    assert "ZeroDivisionError" in caplog.text and "begin" in caplog.text
    served.answer = usual
    assert served.call("fine") == "fine"


def test_a_reply_that_does_not_come_ends_the_connection(links: tuple[Link, Link]) -> None:
    caller = Caller(Connection(links[0]))
    for reason in ("silent", "closed on this host"):
        with pytest.raises(LinkLost, match=reason):
            caller.call(Request(ping=Ping()), timeout=0.05)


def test_garbage_instead_of_a_request_is_answered_and_ends_it(served: Served) -> None:
    served.caller.connection.link.send(struct.pack(">I", 4) + b"\xff" * 4)
    reply = served.caller.connection.recv(Reply, timeout=SOON)
    assert reply.failure.status == ProtocolError.status
    with pytest.raises(ProtocolError):
        served.ended.result(SOON)


def test_a_peer_that_vanishes_ends_the_serving_with_link_lost(served: Served) -> None:
    served.caller.connection.link.send(b"\0\0\0")
    served.caller.close()
    with pytest.raises(LinkLost):
        served.ended.result(SOON)
