"""What a haul moved and how long it took."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from phaul.pace import Pace

KINDS = ("image", "rootfs", "volume", "bind", "log", "memory")
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def readable(count: float) -> str:
    """Bytes for people: "1.5 MiB"."""
    unit = 0
    while count >= 1024 and unit < len(UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 else f"{count:.1f} {UNITS[unit]}"


@dataclass
class Stats:
    """Counters of one haul; seconds are of the monotonic clock."""

    begun: float = field(default_factory=time.monotonic)
    frozen: float = 0.0
    released: float = 0.0
    independent: float = 0.0  # nothing of it is needed from the source any more
    missing: int = 0  # bytes of memory, after the release
    sent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    content: int = 0  # what was sent, in bytes before it was packed with `codec`
    codec: str = ""
    pace: Pace = field(default_factory=Pace)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, kind: str, count: int, content: int) -> None:
        """So much more was sent, which was `content` bytes before it was packed; waits where it went too fast."""
        with self._lock:
            self.sent[kind] += count
            self.content += content
        self.pace.keep(count)

    def still_missing(self, count: int) -> None:
        self.missing = count

    @property
    def total(self) -> int:
        return sum(self.sent.values())

    @property
    def downtime(self) -> float:
        """Seconds from the freeze to the target's word that it runs."""
        return self.released - self.frozen

    @property
    def dependent(self) -> float:
        """Seconds from the release until nothing of it was needed from here any more."""
        return max(0.0, self.independent - self.released)

    def packed(self) -> list[str]:
        """A sentence on what compression gained, where there was one."""
        if not (self.codec and self.content):
            return []
        share = self.total / self.content
        return [f"Compressed ({self.codec}): {readable(self.content)} went as {share:.2f} of it."]

    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def by_kind(self) -> str:
        return ", ".join(
            f"{kind} {readable(count)}" for kind, count in self.sent.items() if count or kind in ("image", "memory")
        )
