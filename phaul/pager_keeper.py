"""The pager's second process, which sees to it that no task reads zeros should the pager die."""

from __future__ import annotations

import contextlib
import os
import socket


class Keeper:
    """The second process: it holds every userfaultfd, so that no page turns into zeros, and nothing else.

    "." tells it that all is well; the end alone that the pager died.
    """

    def __init__(self, haul: str) -> None:
        self._words, theirs = socket.socketpair()
        if os.fork():
            theirs.close()
            return
        try:
            _drop_all_but(theirs.fileno())
            _hold(theirs, haul)
        finally:
            os._exit(0)

    def add(self, descriptor: int) -> None:
        """One that a fork brought."""
        socket.send_fds(self._words, [b"+"], [descriptor])

    def dismiss(self) -> None:
        self._words.send(b".")


def _hold(words: socket.socket, haul: str) -> None:
    while word := socket.recv_fds(words, 1, 1)[0]:
        if word == b".":
            return
    _kill(haul)


def _drop_all_but(wanted: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) != wanted and "userfaultfd" not in os.readlink(f"/proc/self/fd/{name}"):
                os.close(int(name))


def _kill(haul: str) -> None:
    from phaul import htype, journal

    record = journal.read(journal.find(journal.TARGET, haul))
    htype.load(str(record.head["type"])).target.kill(record.head)
