"""The kept inputs of a target: a text file, with a line of base64 for each, the shortest first."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

DIRECTORY = Path(__file__).parent / "corpus"
MAX_INPUTS, MAX_BYTES = 200, 500_000


def kept(target: str) -> list[bytes]:
    path = DIRECTORY / f"{target}.txt"
    return [base64.b64decode(line) for line in path.read_text().split()] if path.exists() else []


def keep(target: str, inputs: Iterable[bytes]) -> int:
    """As many of them as there is room for; how many that were."""
    lines: list[str] = []
    room = MAX_BYTES
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        line = base64.b64encode(data).decode() + "\n"
        if len(lines) == MAX_INPUTS or len(line) > room:
            break
        lines.append(line)
        room -= len(line)
    (DIRECTORY / f"{target}.txt").write_text("".join(lines))
    return len(lines)
