"""What is seen of a haul: plain lines; display_live and display_json are others."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from phaul.mstats import Seen, Stats, readable
from phaul.streams import forgiving


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
        self.end()
        self.stats.enter(name)

    def say(self, sentence: str, _kind: str = "note", /, **_facts: Any) -> None:
        if not sentence:
            return
        with forgiving(self._stream):
            print(sentence, file=self._stream, flush=True)

    def end(self) -> None:
        """The phase that there is, if there is one, has ended."""
        if self.stats.phase:
            self.say(line(self.stats))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.end()


def figures(seen: Seen) -> str:
    """What there is to say of it in numbers, but for the clocks."""
    found = [f"sent {readable(seen.phase_sent)}"]
    if seen.rate:
        found.append(f"{readable(seen.rate)}/s")
    if seen.remaining is not None:
        found.append(f"left {readable(seen.remaining)}")
    if seen.dirty_rate is not None:
        found.append(f"changing {readable(seen.dirty_rate)}/s")
    if seen.downtime is not None:
        found.append(_frozen(seen))
    elif seen.expected_downtime is not None:
        found.append(f"downtime about {seen.expected_downtime:.1f} s")
    return "  ".join(found)


def _frozen(seen: Seen) -> str:
    if seen.released:
        return f"downtime {seen.downtime:.2f} s"
    about = f" of about {seen.expected_downtime:.1f} s" if seen.expected_downtime is not None else ""
    return f"frozen {seen.downtime:.1f} s{about}"


def line(stats: Stats) -> str:
    """A phase that ends now."""
    seen = stats.seen()
    moved = f"  {readable(seen.phase_sent)}" if seen.phase_sent else ""
    return f"{seen.phase:<10} {seen.phase_seconds:7.3f} s{moved}"
