"""What a journal's record is of, in a word."""

from __future__ import annotations

import json
from typing import Any


def kind(record: dict[str, Any]) -> str:
    """ "head", "push.pause", "undone.0", "note.work", "state.frozen"."""
    if "push" in record:
        return f"push.{record['kind']}"
    if "note" in record:
        return f"note.{next(iter(record['note']))}"
    return next((f"{word}.{record[word]}" for word in ("undone", "state") if word in record), "head")


def kinds(journal: bytes) -> list[str]:
    """Of all of them, in their order."""
    return [kind(json.loads(line)) for line in journal.splitlines()]
