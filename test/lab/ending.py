"""A program that is told to end leaves its lab the time to go."""

from __future__ import annotations

import signal
import sys
from types import FrameType


def end_on(*numbers: signal.Signals) -> None:
    """These signals end the program by an exception, with the status that a shell would show."""
    for number in numbers:
        signal.signal(number, _give_up)


def _give_up(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)
