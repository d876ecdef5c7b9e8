"""Where a haul under way can be asked how far it is, and told to stop: a socket in its work directory, root's alone.

A question and its answer are one JSON object in a line each: {"ask": "status"} or {"ask": "cancel"}. The answer
to the first is what the haul tells of itself; to the second {"verdict": "too-late"}, at once or when COMMIT
comes first, or {"verdict": "ended", "sentence": …, "code": …, "status": …} when all is undone.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from phaul import interrupts
from phaul.errors import PhaulError

NAME = "p.haul.sock"
STATUS, CANCEL = "status", "cancel"
TOO_LATE, ENDED = "too-late", "ended"
LINE, QUESTION_SECONDS, ANSWER_SECONDS = 1 << 16, 5.0, 5.0
# An undo may have to wait for CRIU, the engine and the target.
VERDICT_SECONDS = 600.0

Json = dict[str, Any]


class Desk:
    """Open until close(); `tell` says how far the haul is."""

    def __init__(self, directory: Path, tell: Callable[[], Json]) -> None:
        self._directory, self._tell = directory, tell
        self._decided = threading.Event()
        self._verdict: Json = {}
        self._answering: set[threading.Thread] = set()
        self._sock = socket.socket(socket.AF_UNIX)
        with _reachable(directory) as path:
            self._sock.bind(path)
        self._sock.listen()
        self._loop = threading.Thread(target=self._accept, name="desk", daemon=True)
        self._loop.start()

    def committed(self) -> None:
        """Whoever asks for a cancel from now on, or has asked and not been heard yet, comes too late."""
        self._verdict = {"verdict": TOO_LATE}
        self._decided.set()

    def close(self, error: BaseException | None) -> None:
        """It is over, with that error or well: who waits is told."""
        if not self._decided.is_set():
            self._verdict = {"verdict": ENDED, **_of_error(error)}
            self._decided.set()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._loop.join()
        self._sock.close()
        with contextlib.suppress(OSError):  # gone with its directory, mostly
            (self._directory / NAME).unlink()
        for thread in list(self._answering):
            thread.join(ANSWER_SECONDS)

    def _accept(self) -> None:
        while True:
            try:
                asking, _ = self._sock.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._answer, args=(asking,), name="desk", daemon=True)
            self._answering.add(thread)
            thread.start()

    def _answer(self, asking: socket.socket) -> None:
        with asking, contextlib.suppress(OSError, ValueError):
            asking.settimeout(QUESTION_SECONDS)
            question = json.loads(_line(asking))["ask"]
            answer = self._cancel() if question == CANCEL else self._tell()
            asking.sendall(json.dumps(answer).encode() + b"\n")
        self._answering.discard(threading.current_thread())

    def _cancel(self) -> Json:
        if not self._decided.is_set():
            interrupts.ask("p.haul cancel")
        self._decided.wait()
        return self._verdict


def ask(directory: Path, question: str, *, timeout: float = ANSWER_SECONDS) -> Json | None:
    """The answer of the haul with that work directory; None where nobody answers there."""
    with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError, ValueError):
        sock.settimeout(ANSWER_SECONDS)
        with _reachable(directory) as path:
            sock.connect(path)
        sock.sendall(json.dumps({"ask": question}).encode() + b"\n")
        sock.settimeout(timeout)
        answer: Json = json.loads(_line(sock))
        return answer
    return None


@contextlib.contextmanager
def _reachable(directory: Path) -> Iterator[str]:
    """The socket's path as it may be bound and connected to, however long that of the directory is."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)


def _line(sock: socket.socket) -> bytes:
    """Raises OSError (time is over, the other one is gone), ValueError (too long)."""
    said = b""
    while not said.endswith(b"\n"):
        piece = sock.recv(LINE)
        if not piece or len(said) > LINE:
            raise ValueError("no line came")
        said += piece
    return said


def _of_error(error: BaseException | None) -> Json:
    if isinstance(error, PhaulError):
        return {"sentence": error.sentence, "code": error.code, "status": error.status}
    return {"sentence": "It was not foreseen how it ended.", "code": "unforeseen", "status": 1}
