"""How many fields a serialized message has, told before anything is made of them.

A field of two bytes becomes an object of a hundred: what may be long on the wire need not be many. The wire format
is that of https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from typing import Any

MAX_FIELDS = 200_000
# Not worth counting: this much cannot become more than some tens of MiB.
FEW_BYTES = 256 << 10
_VARINT, _FIXED64, _BYTES, _GROUP, _END, _FIXED32 = range(6)
_MAX_DEPTH = 8


class _Broken(Exception):
    """No parser gets farther."""


def too_many(body: bytes, kind: Any) -> bool:
    """Whether the message of that kind (its descriptor), which may be broken, has more than MAX_FIELDS fields."""
    return len(body) > FEW_BYTES and _count(memoryview(body), kind, MAX_FIELDS + 1, 0) > MAX_FIELDS


def _count(body: memoryview, kind: Any, most: int, depth: int) -> int:
    """The fields before the first that is broken, and those within them; about `most` at most."""
    inner = {field.number: field.message_type for field in kind.fields} if kind and depth < _MAX_DEPTH else {}
    at = found = 0
    try:
        while at < len(body) and found < most:
            key, at = _varint(body, at)
            start, at = _value(body, at, key & 7)
            found += 1
            message = inner.get(key >> 3)
            if message is not None and key & 7 == _BYTES:
                found += _count(body[start:at], message, most - found, depth + 1)
    except _Broken:
        pass
    return found


def _value(body: memoryview, at: int, wire: int) -> tuple[int, int]:
    """Where the field's content begins and ends."""
    if wire == _VARINT:
        return at, _varint(body, at)[1]
    if wire in (_GROUP, _END):
        return at, at
    if wire == _BYTES:
        length, at = _varint(body, at)
    else:
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire, len(body))
    if at + length > len(body):
        raise _Broken
    return at, at + length


def _varint(body: memoryview, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(body):
            raise _Broken
        byte = body[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise _Broken
