"""Requests and their replies over a connection, one at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from phaul.connection import Connection, failure_of, raise_failure
from phaul.errors import PhaulError, ProtocolError
from phaul.link import SILENCE_S
from phaul.messages_pb2 import Failure, Reply, Request

LOG = logging.getLogger("phaul.rpc")


class Caller:
    """The asking side of a connection. `tell` hears each request's name, and when it was sent, when it was answered."""

    def __init__(self, connection: Connection, *, tell: Callable[[str, float], None] = lambda *_: None) -> None:
        self.connection = connection
        self._tell = tell

    @property
    def peer(self) -> str:
        return self.connection.peer

    def call(self, request: Request, *, timeout: float | None = SILENCE_S) -> Reply:
        """The peer's reply, within `timeout` seconds; None waits as long as the peer's host answers.

        Raises what the peer's failure says, LinkLost, ProtocolError. After these last two the
        connection is closed: a reply that came late would pass for that to the next request.
        """
        since = time.monotonic()
        try:
            self.connection.send(request)
            reply = self.connection.recv(Reply, timeout=timeout)
        except BaseException:
            self.close()
            raise
        finally:
            self._tell(str(request.WhichOneof("what")), since)
        if reply.HasField("failure"):
            raise_failure(reply.failure)
        return reply

    def close(self) -> None:
        self.connection.close()


def serve(
    connection: Connection, handle: Callable[[Request], Reply], *, after: Callable[[Request], None] | None = None
) -> None:
    """Answer requests until the peer ends the connection.

    What `handle` raises becomes the reply; an unforeseen exception is logged and reported as
    "internal". `after` does what can wait until a request that succeeded is answered; what it raises
    is only logged. Raises LinkLost, and ProtocolError for what is no request, which the peer is told.
    """
    while True:
        try:
            request = connection.recv_or_end(Request, timeout=None)
        except ProtocolError as exc:
            connection.send(Reply(failure=failure_of(exc)))
            raise
        if request is None:
            return
        reply = _answer(request, handle)
        try:
            connection.send(reply)
        finally:
            # Also where the peer is gone meanwhile: what was done is done.
            if after is not None and not reply.HasField("failure"):
                _finish(request, after)


def _answer(request: Request, handle: Callable[[Request], Reply]) -> Reply:
    try:
        return handle(request)
    except PhaulError as exc:
        return Reply(failure=failure_of(exc))
    except Exception as exc:
        LOG.exception("the request %s failed unexpectedly", request.WhichOneof("what"))
        sentence = f"The service failed unexpectedly ({type(exc).__name__}): its log on that host says more."
        return Reply(failure=Failure(status=1, code="internal", sentence=sentence))


def _finish(request: Request, after: Callable[[Request], None]) -> None:
    try:
        after(request)
    except Exception:
        LOG.exception("what follows the request %s failed", request.WhichOneof("what"))
