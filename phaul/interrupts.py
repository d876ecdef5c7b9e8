"""Signals that ask p.haul to stop: before COMMIT they cancel, after it they are noted and wait.

A signal raises Cancelled in the main thread, wherever it is, except inside `shielded()`, where it
is kept until the block ends. Undo steps run shielded, and so does everything after COMMIT: from
there on no signal can change what becomes of the container, nor the exit status that tells it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

from phaul.errors import Cancelled

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_depth = 0
_pending: str | None = None
_asked: str | None = None
_too_late = False
_late: SimpleQueue[str] = SimpleQueue()


def install() -> None:
    """From now on SIGINT, SIGTERM and SIGHUP cancel; for programs, not for libraries."""
    global _depth, _too_late
    _depth, _too_late = 0, False
    for number in SIGNALS:
        # nohup(1) asks for that: it is to go on when the terminal is gone.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _arrived)


def _arrived(number: int, _frame: FrameType | None) -> None:
    global _pending, _asked
    _pending, _asked = _asked or signal.Signals(number).name, None
    if _too_late:
        _late.put(_pending)
    if not _depth:
        _raise_pending()


def _raise_pending() -> None:
    global _pending
    who, _pending = _pending, None
    if who is not None:
        raise Cancelled(f"Cancelled by {who}.")


def ask(who: str) -> None:
    """Cancel as a signal would, from any thread; `who` asks for it."""
    global _asked
    _asked = who
    os.kill(os.getpid(), signal.SIGTERM)


def noted() -> bool:
    """Whether a signal waits."""
    return _pending is not None


def forget() -> None:
    """What waits is not acted on: the haul is past the point where it could be."""
    global _pending
    _pending = None


def over() -> None:
    """What became of it is known, and told now: nothing is cancelled any more, and no signal ends the telling."""
    global _depth
    _depth += 1


def too_late() -> None:
    """COMMIT: from now on signals are only noted, and heard by `late`. To be called inside `shielded()`."""
    global _depth, _too_late
    _depth += 1
    _too_late = True


def is_too_late() -> bool:
    """Whether COMMIT is behind us."""
    return _too_late


@contextmanager
def late(tell: Callable[[str], None]) -> Iterator[None]:
    """Meanwhile `tell` hears the name of each signal, or of who asked, that comes after COMMIT, in a thread of its own.

    A handler of signals may not say anything itself: the main thread may be in the middle of saying something.
    """

    def listen() -> None:
        while name := _late.get():
            tell(name)

    thread = threading.Thread(target=listen, name="late", daemon=True)
    thread.start()
    try:
        yield
    finally:
        _late.put("")
        thread.join()


@contextmanager
def shielded() -> Iterator[None]:
    """No Cancelled inside; a signal that came in the meantime raises it at the end of the outermost block."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    if not _depth:
        _raise_pending()
