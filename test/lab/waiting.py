"""Bounded waits."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from .errors import LabError

T = TypeVar("T")

# How much longer everything may take than on hosts at full speed.
_slowness = 1.0


def allow(slowness: float) -> None:
    """Lengthen all waits from now on, for hosts that are slow; 1 for those that are not."""
    global _slowness
    _slowness = slowness


def until(probe: Callable[[], T], what: str, *, timeout: float = 30, interval: float = 0.02) -> T:
    """The first true value that the probe returns. Raises LabError, naming what was awaited, when time is over."""
    timeout *= _slowness
    interval *= _slowness**2  # looking costs slow hosts most of what they have
    deadline = time.monotonic() + timeout
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"Waited {timeout:g} s in vain for {what}.")
        time.sleep(interval)


def kill_all(pids: Iterable[int], *, timeout: float = 30) -> None:
    """SIGKILL the processes and wait until each has ended. Those that are gone already are fine."""
    handles = []
    with contextlib.ExitStack() as stack:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                stack.callback(os.close, handle)
                handles.append(handle)
                os.kill(pid, 9)
        deadline = time.monotonic() + timeout
        for handle in handles:
            ended, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
            if not ended:
                raise LabError("A process of the lab did not end on SIGKILL.")
