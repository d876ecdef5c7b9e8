"""A limit to how fast a haul sends, over all that it sends."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

from phaul.errors import UsageError

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
# What may be sent at once after a pause.
BURST_SECONDS = 0.1


def rate_of(text: str) -> int:
    """Bytes a second of "500k", "20M" or "1.5G", for argparse. Raises UsageError (bad-bandwidth)."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([kmg]?)", text.strip().lower())
    rate = int(float(found[1]) * UNITS[found[2]]) if found else 0
    if rate < UNITS["k"]:
        sentence = f"{text!r} is no bandwidth: bytes a second, at least 1k, as 500k, 20M or 1G."
        raise UsageError(sentence, code="bad-bandwidth")
    return rate


class Pace:
    """`rate` is in bytes a second; 0 is no limit. Threads share it."""

    def __init__(self, rate: int = 0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._free_at = 0.0

    def keep(self, count: int) -> None:
        """Wait as long as is due before `count` bytes."""
        if self.rate:
            self._over.wait(self.due(count))

    def due(self, count: int) -> float:
        """Seconds to wait before `count` bytes, which are taken as sent then."""
        with self._lock:
            now = self._clock()
            begins = max(self._free_at, now - BURST_SECONDS)
            self._free_at = begins + count / self.rate
            return max(0.0, begins - now)

    def stop(self) -> None:
        """Nobody waits any more."""
        self._over.set()
