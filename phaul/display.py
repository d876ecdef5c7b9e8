"""What the person at the terminal sees of a haul: plain lines, or on a terminal a moving one."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from phaul.mstats import Stats, readable


class Display(Protocol):
    """A place to tell how it goes."""

    def phase(self, name: str) -> None: ...

    def say(self, sentence: str) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Plain:
    """One line for each phase, as it ends: its name, seconds, bytes."""

    def __init__(self, stats: Stats, stream: TextIO) -> None:
        self._stats = stats
        self._stream = stream
        self._name = ""
        self._since = 0.0
        self._bytes = 0

    def phase(self, name: str) -> None:
        self._end()
        self._name, self._since, self._bytes = name, time.monotonic(), self._stats.total

    def say(self, sentence: str) -> None:
        print(sentence, file=self._stream, flush=True)

    def _end(self) -> None:
        if self._name:
            moved = self._stats.total - self._bytes
            bytes_moved = f"  {readable(moved)}" if moved else ""
            self.say(f"{self._name:<10} {time.monotonic() - self._since:7.3f} s{bytes_moved}")
        self._name = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._end()


class Live(Plain):
    """The same lines, and under them one that moves: phase, seconds, bytes, rate."""

    def __init__(self, stats: Stats, stream: TextIO) -> None:
        # Imported where there is a terminal alone: it takes a good part of p.haul's start.
        from rich.console import Console
        from rich.live import Live as RichLive
        from rich.text import Text

        super().__init__(stats, stream)
        self._text = Text
        self._console = Console(file=stream, highlight=False)
        self._live = RichLive(console=self._console, get_renderable=self._line, refresh_per_second=10, transient=True)
        self._lock = threading.Lock()

    def say(self, sentence: str) -> None:
        self._console.print(self._text(sentence))

    def _line(self) -> Any:
        if not self._name:
            return self._text("")
        seconds = time.monotonic() - self._since
        moved = self._stats.total - self._bytes
        rate = f"  {readable(moved)}  {readable(moved / seconds)}/s" if moved and seconds > 0 else ""
        return self._text(f"{self._name:<10} {seconds:7.1f} s{rate}", style="bold")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._live.stop()


def display(stats: Stats, stream: TextIO = sys.stdout) -> Display:
    return Live(stats, stream) if stream.isatty() else Plain(stats, stream)
