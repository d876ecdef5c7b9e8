"""A haul for programs: one JSON object a line, each with `type` and `time` (seconds since 1970)."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self, TextIO

from phaul.display import Plain
from phaul.errors import Blocked, PhaulError
from phaul.log import ROOT
from phaul.mstats import Seen, Stats
from phaul.places import LOGS
from phaul.streams import forgiving

EVERY_SECONDS = 0.5
# Seconds and bytes throughout; null where something is not known. More types and more fields may come.
TYPES = {
    "haul": "it begins: haul (its name), haul_type, subject, target, mode, version",
    "phase": "one begins: phase, seconds and sent since the haul began",
    "phase-done": "one has ended: phase, seconds and sent in it",
    "progress": "twice a second: phase, phase_seconds, seconds, sent, phase_sent, rate, goal, remaining, "
    "remaining_seconds, round, dirty_rate, expected_downtime, downtime, released",
    "choice": "what was chosen, and why: sentence, mode, rounds, codec, rate, memory, expected_downtime",
    "round": "of pre-copy: sentence, round, changed",
    "note": "something to know: sentence",
    "warning": "something to mind: sentence",
    "status": "of p.haul status, a haul under way or in doubt: haul, haul_type, subject, direction (to, from), peer, "
    "begun, state, standing (under-way, settling, dead, in-doubt), and where it is under way from here progress (as "
    "above)",
    "history": "of p.haul history, a haul that is over: haul, haul_type, subject, direction, peer, begun, ended, "
    "outcome (moved, arrived, lost, cancelled, failed, given-up), code, status, downtime, dependent, total, sent, "
    "by_kind, content, codec",
    "summary": "it runs there: sentence, subject (its id there), target, downtime, dependent, total, sent, by_kind, "
    "content, codec, notes",
    "error": "the last line of what did not go well: sentence, detail, code, status, blockers (of code and sentence)",
}


def write(stream: TextIO, kind: str, **facts: Any) -> None:
    """One object. What cannot be said as JSON is said as text."""
    found = {"type": kind, "time": round(time.time(), 3), **facts}
    with forgiving(stream):
        print(json.dumps(found, default=str), file=stream, flush=True)


def error_facts(error: PhaulError) -> dict[str, Any]:
    """What `error` is documented to have."""
    blockers = error.blockers if isinstance(error, Blocked) else ()
    return {
        "sentence": error.sentence,
        "detail": error.detail,
        "code": error.code,
        "status": error.status,
        "blockers": [{"code": blocker.code, "sentence": blocker.sentence} for blocker in blockers],
    }


def unforeseen() -> dict[str, Any]:
    """The same of an error of our own making."""
    sentence = f"This was not foreseen; the logs are in {LOGS}."
    return {"sentence": sentence, "detail": "", "code": "unforeseen", "status": 1, "blockers": []}


class Lines(Plain):
    """What a program reads of a haul. Warnings that are logged are objects too."""

    def __init__(self, stats: Stats, stream: TextIO) -> None:
        super().__init__(stats, stream)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._ticking = threading.Thread(target=self._tick, name="progress", daemon=True)
        self._handler = _Warnings(lambda sentence: self.say(sentence, "warning"))

    def phase(self, name: str) -> None:
        super().phase(name)
        seen = self.stats.seen()
        self.say("", "phase", phase=name, seconds=round(seen.seconds, 3), sent=seen.sent)

    def say(self, sentence: str, kind: str = "note", /, **facts: Any) -> None:
        words = {"sentence": sentence} if sentence else {}
        with self._lock:
            write(self._stream, kind, **words, **facts)

    def end(self, seen: Seen) -> None:
        if seen.phase:
            self.say("", "phase-done", phase=seen.phase, seconds=round(seen.phase_seconds, 3), sent=seen.phase_sent)

    def _tick(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(self.stats.seen()).items()}
            self.say("", "progress", **rounded)

    def __enter__(self) -> Self:
        ROOT.addHandler(self._handler)
        self._ticking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._ticking.join()
        super().__exit__(kind, error, trace)
        ROOT.removeHandler(self._handler)


class _Warnings(logging.Handler):
    """Logged warnings, as sentences."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())
