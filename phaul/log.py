"""Logging: each haul has a directory under /var/log/phaul; the terminal gets warnings, or more by -v."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

from phaul.streams import harmless

FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(threadName)s %(name)s: %(message)s"
MOST = 8 << 20
ROOT = logging.getLogger("phaul")


class _Formatter(logging.Formatter):
    """What is in a message may be a peer's or a container's: it neither reaches a terminal nor begins a line."""

    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record)).replace("\n", "\n    ")


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to the stderr of the moment: while something moves on a terminal, that is another one."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _stream: TextIO) -> None:
        pass


def setup(*, verbosity: int, stream: bool = True) -> None:
    """Messages on stderr: warnings, with one -v what happens, with two everything."""
    ROOT.setLevel(logging.DEBUG)
    ROOT.propagate = False
    # A log on a full disk is no reason for a traceback on stderr each time.
    logging.raiseExceptions = False
    if stream:
        handler = _Stderr()
        handler.setLevel({0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG))
        handler.setFormatter(_Formatter(FORMAT, "%H:%M:%S"))
        ROOT.addHandler(handler)


def to_file(path: Path, *, most: int = 0) -> logging.Handler:
    """Everything into the file as well, from now on; the caller may remove the handler again.

    Of a file that is always written to `most` bytes are kept, and as much before that in `path`.1; 0: all.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handler = RotatingFileHandler(path, maxBytes=most, backupCount=1)
    path.chmod(0o600)
    handler.setFormatter(_Formatter(FORMAT, "%Y-%m-%d %H:%M:%S"))
    ROOT.addHandler(handler)
    return handler


def drop(handler: logging.Handler) -> None:
    ROOT.removeHandler(handler)
    handler.close()
