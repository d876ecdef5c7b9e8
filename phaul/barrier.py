"""Where a haul that is one of several waits for the others: before the freeze, and before COMMIT.

Over a socket that it was started with it says that it is there, POISED or HELD and a newline, and goes on
when it hears GO. Whatever else it hears, the end above all, means that all of them are off.
"""

from __future__ import annotations

import socket

from phaul.errors import HaulFailed

POISED, HELD = "poised", "held"
GO = b"go\n"
_LINE = 64


class Barrier:
    """`descriptor` is the socket's; None for a haul of its own, which waits for nobody."""

    def __init__(self, descriptor: int | None) -> None:
        self._socket = None if descriptor is None else socket.socket(fileno=descriptor)

    def reach(self, place: str) -> None:
        """Raises HaulFailed (group) where another one could not be moved."""
        if not self._socket:
            return
        try:
            self._socket.sendall(f"{place}\n".encode())
            word = self._socket.recv(_LINE)
        except OSError:
            word = b""
        if word != GO:
            raise HaulFailed("Another one of those that were to move together could not be moved.", code="group")
