"""Changes that keep a document a document, and a frame's length right: what lies deeper is come to so."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

# Other bytes of the same, by a source of chance and what changes plain bytes.
Mutator = Callable[[bytes, random.Random, Callable[[bytes], bytes]], bytes]
Mutate = Callable[[bytes], bytes]

DEEP: Any = "x"
for _ in range(100):
    DEEP = [DEEP]
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 65536, 1 << 63, 1 << 200, 0.5, 1e308, float("inf"), float("nan")),
    *("", "x", " ", "0", "-1", "../../x", "/", "..", "a/../b", "x\n[evil]", "a\0b", "\ud800", "\udcff", "\x1b[2J"),
    *("x" * 300, "/" + "y" * 300, "10.0.0.1", "fd00::1", "1.2.3.4/99", "volume", "bind", "container:x", "host"),
    *([], {}, [[]], [{}], {"": None}, DEEP),
)
_LENGTH = struct.Struct(">I")


def of_json(data: bytes, chance: random.Random, mutate: Mutate) -> bytes:
    """One value in the document is another one, is gone, or is there twice."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return mutate(data)
    holders = _holders(document)
    if not holders:
        return mutate(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        _change(*chance.choice(holders), chance, holders)
    try:
        return json.dumps(document, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return mutate(data)


def of_json_lines(data: bytes, chance: random.Random, mutate: Mutate) -> bytes:
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    if chance.random() < 0.3:
        lines.insert(at, lines[chance.randrange(len(lines))])
    else:
        lines[at] = of_json(lines[at], chance, mutate).replace(b"\n", b" ")
    return b"\n".join(lines)


def _holders(document: Any) -> list[tuple[Any, Any]]:
    """Each value, as what holds it and by which key."""
    found: list[tuple[Any, Any]] = []
    todo = [document]
    while todo:
        holder = todo.pop()
        keys = (
            list(holder) if isinstance(holder, dict) else list(range(len(holder))) if isinstance(holder, list) else []
        )
        found += [(holder, key) for key in keys]
        todo += [holder[key] for key in keys]
    return found


def _change(holder: Any, key: Any, chance: random.Random, holders: list[tuple[Any, Any]]) -> None:
    way = chance.random()
    try:
        if way < 0.6:
            holder[key] = chance.choice(ODD)
        elif way < 0.7:
            del holder[key]
        elif way < 0.8 and isinstance(holder, dict):
            holder[str(chance.choice(ODD))[:300]] = holder.pop(key)
        elif way < 0.9 and isinstance(holder, list):
            holder.insert(key, holder[key])
        else:
            other, name = chance.choice(holders)
            holder[key] = json.loads(json.dumps(other[name]))
    except (KeyError, IndexError, ValueError, RecursionError):
        pass  # it was changed away, or into itself


def of_frames(data: bytes, chance: random.Random, mutate: Mutate) -> bytes:
    """The content of one of the frames is another one, or a frame is gone, or comes again."""
    frames = _frames(data)
    if not frames:
        return mutate(data)
    at, way = chance.randrange(len(frames)), chance.random()
    if way < 0.7:
        frames[at] = mutate(frames[at])
    elif way < 0.85:
        del frames[at]
    else:
        frames.insert(chance.randrange(len(frames)), frames[at])
    return b"".join(_LENGTH.pack(len(frame)) + frame for frame in frames)


def _frames(data: bytes) -> list[bytes]:
    """The contents of the whole frames at the beginning."""
    found, at = [], 0
    while at + _LENGTH.size <= len(data):
        end = at + _LENGTH.size + _LENGTH.unpack_from(data, at)[0]
        if end > len(data):
            break
        found.append(data[at + _LENGTH.size : end])
        at = end
    return found
