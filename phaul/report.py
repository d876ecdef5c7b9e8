"""What is remembered of a haul for --report: when each phase was, on both hosts, and all that was said of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from phaul import report_page
from phaul.display import Display
from phaul.errors import PhaulError, UsageError
from phaul.mstats import Stats
from phaul.outcome import facts
from phaul.report_page import Report, Span

LOG = logging.getLogger("phaul.report")


@dataclass
class Recorder:
    """A display that remembers what it passes on to another one."""

    show: Display
    stats: Stats
    spans: list[Span] = field(default_factory=list)
    said: list[tuple[str, str]] = field(default_factory=list)
    head: dict[str, Any] = field(default_factory=dict)

    def phase(self, name: str) -> None:
        self._end()
        self.show.phase(name)

    def _end(self) -> None:
        seen = self.stats.seen()
        if seen.phase:
            self.spans.append(Span(seen.phase, seen.seconds - seen.phase_seconds, seen.seconds, seen.phase_sent))

    def say(self, sentence: str, kind: str = "note", /, **found: Any) -> None:
        if kind == "haul":
            self.head.update(found)
        if kind == "summary":
            self.head["notes"] = found["notes"]
        if sentence and kind != "summary":
            self.said.append((kind, sentence))
        self.show.say(sentence, kind, **found)

    def report(self, error: BaseException | None) -> Report:
        self._end()
        begun = self.stats.begun
        calls = [Span(name, since - begun, until - begun, 0) for name, since, until in self.stats.calls]
        frozen, released = (moment - begun if moment else None for moment in (self.stats.frozen, self.stats.released))
        if isinstance(error, PhaulError):
            self.said.append(("error", f"{error.sentence} [{error.code}] {error.detail}".strip()))
        return Report(
            head=dict(self.head),
            began=time.time() - self.stats.seconds(),
            seconds=self.stats.seconds(),
            here=tuple(self.spans),
            there=tuple(calls),
            frozen=frozen,
            released=released,
            said=tuple(self.said),
            facts=facts(self.stats),
            failed=error is not None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


@contextmanager
def kept(path: str | None, stats: Stats) -> Iterator[Callable[[Display], Display]]:
    """Write the report of what is shown meanwhile on what the given function returns, well ended or not.

    Raises UsageError (report-file) where it cannot be written, before anything happens. None: there is to be none.
    """
    if path is None:
        yield lambda show: show
        return
    try:
        Path(path).open("a").close()
    except OSError as error:
        raise UsageError(f"The report cannot be written to {path}: {error.strerror}.", code="report-file") from None
    recorders: list[Recorder] = []

    def record(show: Display) -> Display:
        recorders.append(Recorder(show, stats))
        return recorders[0]

    ended_by: BaseException | None = None
    try:
        yield record
    except BaseException as error:
        ended_by = error
        raise
    finally:
        for recorder in recorders:
            try:
                Path(path).write_text(report_page.page(recorder.report(ended_by)), encoding="utf-8")
            except OSError as error:
                LOG.warning("the report could not be written to %s: %s", path, error.strerror)
