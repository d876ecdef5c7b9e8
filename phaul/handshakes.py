"""Connections that have not shown yet who they are."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from phaul.errors import LinkLost

MAX_HANDSHAKES = 64


class Handshakes:
    """At most MAX_HANDSHAKES of them; the oldest makes room.

    So whoever holds connections open without a word cannot keep a paired host out, who needs
    milliseconds to show its key.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, socket.socket] = {}

    @contextlib.contextmanager
    def one(self, sock: socket.socket) -> Iterator[None]:
        """Raises LinkLost at the end where the connection had to make room."""
        # A second handle on the connection: TLS takes the socket object over.
        handle = sock.dup()
        with self._lock:
            self._open[id(handle)] = handle
            while len(self._open) > MAX_HANDSHAKES:
                shut(self._open.pop(next(iter(self._open))))
        try:
            yield
        finally:
            with self._lock:
                kept = self._open.pop(id(handle), None)
            handle.close()
        if kept is None:
            raise LinkLost("A connection was dropped in its handshake: too many others came.")

    def drop_all(self) -> None:
        with self._lock:
            while self._open:
                shut(self._open.popitem()[1])


def shut(sock: socket.socket) -> None:
    """End a socket's connection, or its listening, without closing it: whoever waits on it wakes up."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
