"""Which display suits: lines, a picture that moves, or JSON."""

from __future__ import annotations

import sys
from typing import TextIO

from phaul.display import Display, Plain
from phaul.display_json import Lines
from phaul.mstats import Stats


def view(stats: Stats, *, title: str, asks: bool, json: bool = False, stream: TextIO | None = None) -> Display:
    """What suits the stream (stdout). `title` says what goes where; `asks`: ssh may ask on the terminal at first."""
    stream = stream or sys.stdout
    if json:
        return Lines(stats, stream)
    if stream.isatty():
        # Imported where there is a terminal alone: it takes a good part of p.haul's start.
        from phaul.display_live import Live

        return Live(stats, stream, title=title, asks=asks)
    return Plain(stats, stream)
