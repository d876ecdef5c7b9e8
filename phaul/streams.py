"""Writing for somebody who may be gone: a terminal that was closed, a program that reads no more."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TextIO


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
