"""What is seen of a haul: plain lines; display_live and display_json are others."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from phaul.mstats import Seen, Stats, readable
from phaul.streams import forgiving, harmless


class Display(Protocol):
    """A place to tell how it goes."""

    def phase(self, name: str) -> None:
        """It begins, and the one before has ended; the stats are told."""

    def say(self, sentence: str, kind: str = "note", /, **facts: Any) -> None:
        """For people the sentence, if there is one; for programs its kind (display_json.TYPES) and the facts too."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Plain:
    """One line for each phase, as it ends: its name, seconds, bytes."""

    def __init__(self, stats: Stats, stream: TextIO) -> None:
        self.stats = stats
        self._stream = stream

    def phase(self, name: str) -> None:
        ended = self.stats.seen()
        self.stats.enter(name)
        self.end(ended)

    def say(self, sentence: str, _kind: str = "note", /, **_facts: Any) -> None:
        if not sentence:
            return
        with forgiving(self._stream):
            print(harmless(sentence), file=self._stream, flush=True)

    def end(self, seen: Seen) -> None:
        """The phase that was seen, if it was one, has ended."""
        if seen.phase:
            self.say(line(seen))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.end(self.stats.seen())


def flow(seen: Seen) -> str:
    """What there is to say of what the phase sends."""
    found = [f"sent {readable(seen.phase_sent)}"]
    if seen.rate:
        found.append(f"{readable(seen.rate)}/s")
    if seen.remaining is not None:
        time = f", {seen.remaining_seconds:.0f} s" if seen.remaining_seconds is not None else ""
        found.append(f"left {readable(seen.remaining)}{time}")
    if seen.dirty_rate is not None:
        found.append(f"changing {readable(seen.dirty_rate)}/s")
    return "  ".join(found)


def downtime(seen: Seen) -> str:
    """What it will be, is, or was; "" where nothing is known of it yet."""
    if seen.released:
        return f"downtime {seen.downtime:.2f} s"
    about = "" if seen.expected_downtime is None else f"about {seen.expected_downtime:.1f} s"
    if seen.downtime is not None:
        return f"frozen {seen.downtime:.1f} s{about and ' of '}{about}"
    return f"{about and 'downtime '}{about}"


def line(seen: Seen) -> str:
    """A phase that has ended."""
    moved = f"  {readable(seen.phase_sent)}" if seen.phase_sent else ""
    return f"{seen.phase:<10} {seen.phase_seconds:7.3f} s{moved}"
