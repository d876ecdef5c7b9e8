"""A haul on a terminal: the phases that are over stay as lines, and under them a few lines move."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console, Group
from rich.live import Live as Moving
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from phaul import interrupts
from phaul.display import Plain, downtime, flow
from phaul.mstats import Seen, Stats, readable
from phaul.streams import forgiving, harmless

PER_SECOND = 8
CANCEL, UNDOING, LATE = "Ctrl-C cancels", "cancelling", "too late to cancel"


class Live(Plain):
    """Three lines: the phase, its clock and how much of it is done; what it sends; the whole haul and its downtime."""

    def __init__(self, stats: Stats, stream: TextIO, *, title: str, asks: bool) -> None:
        super().__init__(stats, stream)
        self._title, self._asks = title, asks
        self._console = Console(file=stream, highlight=False)
        self._moving = Moving(
            console=self._console,
            get_renderable=self.picture,
            refresh_per_second=PER_SECOND,
            transient=True,
            redirect_stdout=False,
            # What is logged must not end up within the lines; what goes elsewhere must go there.
            redirect_stderr=sys.stderr.isatty(),
        )

    def phase(self, name: str) -> None:
        super().phase(name)
        # A question of ssh on the terminal would be overwritten: it comes in the first phase, if at all.
        if self._asks:
            self._asks = False
        else:
            with forgiving(self._stream):
                self._moving.start()

    def say(self, sentence: str, kind: str = "note", /, **_facts: Any) -> None:
        if not sentence:
            return
        with forgiving(self._stream):
            self._console.print(Text(harmless(sentence), style="yellow" if kind == "warning" else ""))

    def picture(self) -> Group:
        """What moves, as it is now."""
        seen = self.stats.seen()
        lines = [_first(seen), Text(f"   {flow(seen)}", no_wrap=True, overflow="ellipsis"), self._third(seen)]
        return Group(*(lines if seen.phase else ()))

    def _third(self, seen: Seen) -> Text:
        """What goes where is cut short where there is no room for it."""
        hint = UNDOING if seen.phase == "undo" else LATE if interrupts.is_too_late() else CANCEL
        figures = f"  {seen.seconds:.1f} s, {readable(seen.sent)}  {downtime(seen)}"
        room = self._console.width - len(figures) - len(hint)
        title = Text(f"   {self._title}", style="dim")
        title.truncate(max(0, room - 2), overflow="ellipsis")
        gap = " " * max(2, room - title.cell_len)
        return Text.assemble(title, (f"{figures}{gap}{hint}", "dim"), no_wrap=True, overflow="ellipsis")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        with forgiving(self._stream):
            self._moving.stop()


def _first(seen: Seen) -> Table:
    grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
    for _ in range(2):
        grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True, justify="right", min_width=5)
    words = f"round {seen.round}" if seen.round else ""
    head = Text(f"{seen.phase:<10} {seen.phase_seconds:7.1f} s", style="bold")
    if seen.goal is None or seen.remaining is None:
        grid.add_row(head, words, "", "")
    else:
        share = 1 - seen.remaining / seen.goal if seen.goal else 1.0
        grid.add_row(head, words, ProgressBar(1.0, share, complete_style="cyan", finished_style="cyan"), f"{share:.0%}")
    return grid
