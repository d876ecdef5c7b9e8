"""How a haul ended well: for people, and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from phaul.mstats import Stats, readable


@dataclass(frozen=True)
class Outcome:
    """A container that runs at the target, and what is to be told about it."""

    subject: str
    notes: tuple[str, ...]


def summary(outcome: Outcome, stats: Stats, where: str) -> list[str]:
    """The lines at the end."""
    return [
        f"Runs on {where} as {outcome.subject[:12]}.",
        f"Downtime {stats.downtime * 1000:.0f} ms, total {stats.seconds():.1f} s, "
        f"{readable(stats.total)} sent ({stats.by_kind()}).",
        *stats.packed(),
        *([f"It needed this host's memory for {stats.dependent:.1f} s more."] if stats.dependent else []),
        *outcome.notes,
    ]


def facts(stats: Stats) -> dict[str, Any]:
    """What a haul came to so far: seconds, and bytes; `downtime` and `dependent` are None before the release."""
    released = bool(stats.released)
    return {
        "downtime": round(stats.downtime, 3) if released else None,
        "dependent": round(stats.dependent, 3) if released else None,
        "total": round(stats.seconds(), 3),
        "sent": stats.total,
        "by_kind": dict(stats.sent),
        "content": stats.content,
        "codec": stats.codec,
    }
