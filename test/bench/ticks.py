"""What the workload has written of itself (guest/workload.c): when it ran, and whether all was right."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

RECORD = struct.Struct("=QQII")


class Broken(Exception):
    """The haul lost, repeated or changed something: its figures count for nothing."""


@dataclass(frozen=True)
class Tick:
    number: int
    when: float  # seconds since the epoch
    checks: int
    errors: int


def read(path: Path, *, last: int | None = None) -> list[Tick]:
    """The records in the file; the last ones only where a number is given."""
    with path.open("rb") as file:
        if last is not None:
            size = path.stat().st_size // RECORD.size
            file.seek(max(0, size - last) * RECORD.size)
        data = file.read()
    whole = data[: len(data) // RECORD.size * RECORD.size]
    return [Tick(number, nano / 1e9, checks, errors) for number, nano, checks, errors in RECORD.iter_unpack(whole)]


def check(seen: list[Tick]) -> None:
    """Raises Broken unless every number from 0 on is there once, in order, and no memory was found changed."""
    for expected, tick in enumerate(seen):
        if tick.number != expected:
            raise Broken(f"record {expected} has the number {tick.number}")
    if seen[-1].errors:
        raise Broken(f"{seen[-1].errors} words of its memory had changed")


def gap(seen: list[Tick]) -> tuple[float, float]:
    """The longest time between two records, in seconds, and when it ended."""
    first, later = max(pairwise(seen), key=lambda pair: pair[1].when - pair[0].when)
    return later.when - first.when, later.when
