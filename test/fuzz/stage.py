"""What a target stands on: a link that says what it is fed, and a host's directories that are a moment's own."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from phaul import places
from phaul.link import Link

# A real file system would make each sync of a journal a wait for the disk. Who runs targets in a process that ends
# without cleaning up says where.
MEMORY = Path(os.environ.get("PHAUL_FUZZ_DIR", "/dev/shm"))


@contextlib.contextmanager
def fed(data: bytes) -> Iterator[Link]:
    """A link whose peer says this, and ends."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        link = Link(theirs, "peer")
        try:
            yield link
        finally:
            link.close()


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """One that goes."""
    with tempfile.TemporaryDirectory(prefix="phaul-fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Path(name)


@contextlib.contextmanager
def home() -> Iterator[Path]:
    """P.Haul's directories are in one that goes, and what it logs goes nowhere."""
    with directory() as top, contextlib.ExitStack() as stack:
        for name in ("ETC", "STATE", "RUN", "LOGS", "JOURNALS", "WORK", "RESTORE", "PAGES"):
            (top / name.lower()).mkdir()
            stack.enter_context(mock.patch.object(places, name, top / name.lower()))
        stack.enter_context(quiet())
        yield top


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """What P.Haul logs ends in memory, formatted as ever."""
    root, words = logging.getLogger("phaul"), io.StringIO()
    before = root.handlers[:], root.level, root.propagate
    root.handlers, root.propagate = [logging.StreamHandler(words)], False
    root.setLevel(logging.WARNING)
    try:
        yield words
    finally:
        root.handlers, root.propagate = before[0], before[2]
        root.setLevel(before[1])


def emptied(path: Path) -> Path:
    """The directory without what is in it."""
    for inner in path.iterdir():
        if inner.is_dir() and not inner.is_symlink():
            shutil.rmtree(inner)
        else:
            inner.unlink()
    return path


def everything_in(top: Path) -> set[str]:
    """Relative paths of the files below it."""
    return {str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir()}
