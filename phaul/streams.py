"""Writing for somebody who may be gone: a terminal that was closed, a program that reads no more.

And for somebody who must not be deceived: words of a peer, or of a container, are made harmless before.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TextIO

# Longer than anything that is meant to be read.
MAX_WORDS = 4096


@contextlib.contextmanager
def forgiving(stream: TextIO) -> Iterator[None]:
    """What cannot be written to the stream any more is not; whatever comes after that goes nowhere.

    A haul goes on, or is undone, as if it had been read: it must not end in the middle for that.
    """
    try:
        yield
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def printable(text: str, most: int = MAX_WORDS) -> str:
    """What somebody else said in one line, without what a terminal would act on, and cut short where it is longer."""
    said = _shown(text[: 4 * most])
    return said if len(said) <= most else f"{said[: most - 1]}…"


def harmless(text: str) -> str:
    """As `printable`, for several lines, which may be long: nothing is cut."""
    return "\n".join(map(_shown, text.split("\n")))


def _shown(line: str) -> str:
    return line if line.isprintable() else "".join(filter(str.isprintable, line.replace("\t", " ")))
