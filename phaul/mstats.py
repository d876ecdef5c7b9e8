"""What a haul moved and how long it took."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field

from phaul.pace import Pace

KINDS = ("image", "rootfs", "volume", "bind", "log", "memory")
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
# The rate shown is that of the last seconds: of a moment it would jump, of the whole phase it would be old.
RATE_SECONDS, RATE_STEP = 3.0, 0.1


def readable(count: float) -> str:
    """Bytes for people: "1.5 MiB"."""
    unit = 0
    while count >= 1024 and unit < len(UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 else f"{count:.1f} {UNITS[unit]}"


@dataclass(frozen=True)
class Seen:
    """How far a haul is at one moment: times in seconds, sizes in bytes, rates in bytes a second; None: not known."""

    phase: str
    phase_seconds: float
    seconds: float
    sent: int
    phase_sent: int
    rate: float
    goal: int | None  # what this phase, or its round, has to send
    remaining: int | None  # of the goal
    remaining_seconds: float | None  # as fast as it goes now
    round: int | None  # of pre-copy, from 1
    dirty_rate: float | None  # of what the tasks change
    expected_downtime: float | None
    downtime: float | None  # so far, or in all once it is released
    released: bool


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
    calls: list[tuple[str, float, float]] = field(default_factory=list)  # what the target was asked, since, until
    phase: str = ""
    round: int | None = None
    dirty_rate: float | None = None
    expected_downtime: float | None = None
    _phase_begun: tuple[float, int] = (0.0, 0)  # when, and how much had been sent
    _round_seen: float = 0.0
    _goal: tuple[int, int] | None = None  # how much there is to send, and `content` when it was told
    _sample: deque[tuple[float, int, int]] = field(default_factory=deque, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, kind: str, count: int, content: int) -> None:
        """So much more was sent, which was `content` bytes before it was packed; waits where it went too fast."""
        with self._lock:
            self.sent[kind] += count
            self.content += content
            self._sample_now()
        self.pace.keep(count)

    def _sample_now(self) -> None:
        now = time.monotonic()
        if not self._sample or now - self._sample[-1][0] >= RATE_STEP:
            self._sample.append((now, self.total, self.content))
            while self._sample[0][0] < now - RATE_SECONDS:
                self._sample.popleft()

    def enter(self, phase: str) -> None:
        """A phase begins."""
        with self._lock:
            self.phase, self._phase_begun = phase, (time.monotonic(), self.total)
            self._goal = None
            self.round = self.dirty_rate = None
            self._sample.clear()
            self._sample_now()

    def was_asked(self, name: str, since: float) -> None:
        """The target has answered now what it was asked then."""
        self.calls.append((name, since, time.monotonic()))

    def aim(self, goal: int | None) -> None:
        """The phase, or the round, has so many bytes to send from now on, before they are packed."""
        with self._lock:
            self._goal = None if goal is None else (goal, self.content)

    def in_round(self, number: int, goal: int | None) -> None:
        """A round of pre-copy is under way; `goal` as in `aim`."""
        self.round = number
        self.aim(goal)

    def has_changed(self, number: int, size: int) -> None:
        """The tasks have changed so much since the round before; in the first one all is new."""
        now = time.monotonic()
        if number > 1:
            self.dirty_rate = size / max(1e-3, now - self._round_seen)
        self._round_seen = now

    def still_missing(self, count: int) -> None:
        """So much memory is not at the target yet. What had to come in this phase is the first such count."""
        with self._lock:
            self.missing = count
            first = self._goal[0] if self._goal else count
            self._goal = (first, self.content - (first - count))

    def seen(self) -> Seen:
        """How far it is now."""
        with self._lock:
            now, (begun, before) = time.monotonic(), self._phase_begun
            last = (now, self.total, self.content)
            since, sent, content = next((past for past in self._sample if past[0] >= now - RATE_SECONDS), last)
            remaining = max(0, self._goal[0] - (self.content - self._goal[1])) if self._goal else None
            seconds, flow = max(RATE_STEP, now - since), self.content - content
            return Seen(
                phase=self.phase,
                phase_seconds=now - begun,
                seconds=now - self.begun,
                sent=self.total,
                phase_sent=self.total - before,
                rate=(self.total - sent) / seconds,
                goal=self._goal[0] if self._goal else None,
                remaining=remaining,
                remaining_seconds=remaining * seconds / flow if remaining is not None and flow else None,
                round=self.round,
                dirty_rate=self.dirty_rate,
                expected_downtime=self.expected_downtime,
                downtime=((self.released or now) - self.frozen) if self.frozen else None,
                released=bool(self.released),
            )

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
