"""Messages over a link: a 4-byte big-endian length, at most MAX_MESSAGE, and one protobuf message.

Every connection begins with a Hello and its HelloReply, so that two versions that do not speak the
same protocol find out before anything else is said.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from typing import NoReturn, TypeVar

from google.protobuf.message import DecodeError, Message

from phaul import VERSION, codec, message_bounds, messages_pb2
from phaul.errors import Blocked, Blocker, Caution, Finding, PhaulError, ProtocolError, from_peer
from phaul.link import SILENCE_S, Link
from phaul.relay import MAX_CHUNK
from phaul.streams import MAX_WORDS, harmless, printable

PROTOCOL = 3
MAX_MESSAGE = 4 << 20
HELLO_S = 30.0
# Of what a peer reports: so many findings, and characters of its details, are more than anybody reads.
MAX_FINDINGS, MAX_DETAIL = 1000, 64 << 10
MAX_FACT = 16 << 10  # a processor's flags

_LENGTH = struct.Struct(">I")

M = TypeVar("M", bound=Message)


class Connection:
    """Whole messages over a link; `timeout` is in seconds of silence, None waits while the host answers."""

    def __init__(self, link: Link) -> None:
        self.link = link

    @property
    def peer(self) -> str:
        return self.link.peer

    def send(self, message: Message, *, timeout: float | None = SILENCE_S) -> None:
        """Raises LinkLost, and ProtocolError for a message that is too long to be sent."""
        body = message.SerializeToString()
        if len(body) > MAX_MESSAGE:
            raise ProtocolError(f"A message of {len(body)} bytes cannot be sent: at most {MAX_MESSAGE} are allowed.")
        self.link.send(_LENGTH.pack(len(body)) + body, timeout=timeout)

    def recv(self, kind: type[M], *, timeout: float | None = SILENCE_S) -> M:
        """The peer's next message. Raises LinkLost, also at the end, and ProtocolError for what is none."""
        message = self.recv_or_end(kind, timeout=timeout)
        if message is None:
            raise self.link.lost("the peer ended it")
        return message

    def recv_or_end(self, kind: type[M], *, timeout: float | None = SILENCE_S) -> M | None:
        """As `recv`, but None where the peer ended the link between two messages."""
        first = self.link.recv(1, timeout=timeout)
        if not first:
            return None
        (length,) = _LENGTH.unpack(first + self.link.recv_exact(_LENGTH.size - 1, timeout=timeout))
        if length > MAX_MESSAGE:
            raise ProtocolError(
                f"{self.peer} announced a message of {length} bytes; at most {MAX_MESSAGE} are allowed."
            )
        body = self.link.recv_exact(length, timeout=timeout)
        if message_bounds.too_many(body, kind.DESCRIPTOR):
            raise ProtocolError(f"{self.peer} sent a message of too many fields.")
        try:
            return kind.FromString(body)
        except (DecodeError, ValueError) as exc:  # ValueError: text that is no UTF-8, from protobuf's parser in Python
            raise ProtocolError(f"{self.peer} sent something that is no message of P.Haul.") from exc

    def close(self) -> None:
        self.link.close()


def greet(link: Link, purpose: str, token: bytes = b"", channel: str = "", packing: str = "") -> Connection:
    """Begin a connection as the side that opened it; `packing` is the codec for the chunks that it sends.

    Raises ProtocolError where the peer speaks another protocol, what the peer's refusal says, LinkLost.
    """
    connection = Connection(link)
    hello = messages_pb2.Hello(
        protocol=PROTOCOL, version=VERSION, purpose=purpose, token=token, channel=channel, codec=packing
    )
    packer = codec.Packer() if packing else None
    connection.send(hello, timeout=HELLO_S)
    reply = connection.recv(messages_pb2.HelloReply, timeout=HELLO_S)
    if reply.protocol != PROTOCOL:
        raise _mismatch(link.peer, reply.protocol, reply.version)
    if reply.HasField("failure"):
        raise_failure(reply.failure)
    link.packer = packer
    return connection


def welcome(
    link: Link, check: Callable[[messages_pb2.Hello], None] | None = None
) -> tuple[Connection, messages_pb2.Hello]:
    """Begin a connection as the side that accepted it; `check` may raise a PhaulError to refuse the Hello.

    The peer is told why. Raises ProtocolError where it speaks another protocol, what `check` raised, LinkLost.
    """
    connection = Connection(link)
    hello = _hello(connection)
    reply = messages_pb2.HelloReply(protocol=PROTOCOL, version=VERSION)
    try:
        if hello.protocol != PROTOCOL:
            raise _mismatch(link.peer, hello.protocol, hello.version)
        if check is not None:
            check(hello)
        if hello.codec:
            link.unpacker = _unpacker(link, hello)
    except PhaulError as exc:
        reply.failure.CopyFrom(failure_of(exc))
        connection.send(reply, timeout=HELLO_S)
        raise
    connection.send(reply, timeout=HELLO_S)
    return connection, hello


def _hello(connection: Connection) -> messages_pb2.Hello:
    """All of it within HELLO_S: a byte now and then does not keep a connection open."""
    late = threading.Timer(HELLO_S, connection.close)
    late.daemon = True
    late.start()
    try:
        return connection.recv(messages_pb2.Hello, timeout=HELLO_S)
    finally:
        late.cancel()


def _unpacker(link: Link, hello: messages_pb2.Hello) -> codec.Unpacker:
    if hello.purpose != "data" or hello.codec != codec.NAME:
        raise ProtocolError(
            f"{link.peer} wants {hello.codec[:20]!r} on a connection of kind {hello.purpose[:20]!r}, "
            "which is not spoken here."
        )
    return codec.Unpacker(link.peer, MAX_CHUNK)


def failure_of(exc: PhaulError) -> messages_pb2.Failure:
    """The message that makes the peer raise the same failure."""
    blockers = exc.blockers if isinstance(exc, Blocked) else ()
    return messages_pb2.Failure(
        code=exc.code,
        status=exc.status,
        sentence=harmless(exc.sentence),
        detail=harmless(exc.detail),
        blockers=[message_of(blocker) for blocker in blockers],
    )


def message_of(finding: Finding) -> messages_pb2.Finding:
    words = {"code": finding.code, "reason": finding.reason, "remedy": finding.remedy, "subject": finding.subject}
    return messages_pb2.Finding(**{name: printable(said) for name, said in words.items()}, blocks=finding.blocks)


def finding_of(message: messages_pb2.Finding) -> Finding:
    """What the peer found, fit for a terminal."""
    kind = Blocker if message.blocks else Caution
    return kind(*map(printable, (message.code, message.reason, message.remedy, message.subject)))


def facts_of(message: messages_pb2.HostFacts) -> messages_pb2.HostFacts:
    """What the peer says of its host, fit for a terminal."""
    found = messages_pb2.HostFacts()
    found.CopyFrom(message)
    for field, value in message.ListFields():
        if isinstance(value, str):
            setattr(found, field.name, printable(value, MAX_FACT))
    return found


def raise_failure(failure: messages_pb2.Failure) -> NoReturn:
    """Raise what the peer reported: Blocked where it names blockers, else what its status stands for."""
    if failure.blockers:
        raise Blocked(tuple(map(finding_of, failure.blockers[:MAX_FINDINGS])))
    sentence = harmless(failure.sentence[:MAX_WORDS])
    raise from_peer(sentence, printable(failure.code), failure.status, harmless(failure.detail[:MAX_DETAIL]))


def _mismatch(peer: str, protocol: int, version: str) -> ProtocolError:
    older = peer if protocol < PROTOCOL else "this host"
    said = printable(version[:20]) or "unknown"
    return ProtocolError(
        f"{peer} speaks protocol {protocol} (P.Haul {said}), this host {PROTOCOL} (P.Haul {VERSION}): "
        f"upgrade P.Haul on {older}, which is the older one.",
        code="version-mismatch",
    )
