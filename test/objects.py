"""What P.Haul says for programs, read strictly."""

from __future__ import annotations

import json
import re
from typing import Any

from phaul.display_json import TYPES

ALWAYS = {"type", "time"}


def objects(text: str) -> list[dict[str, Any]]:
    """What was said, each object as it is documented. Raises AssertionError, ValueError where anything else was."""
    found = [json.loads(line) for line in text.splitlines()]
    for one in found:
        assert one["type"] in TYPES, one
        words = set(re.findall(r"\w+", TYPES[one["type"]]))
        assert ALWAYS <= one.keys() <= ALWAYS | words, one
    return found


def of_type(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in found if one["type"] == kind]
