"""JSON documents of a peer: read with bounds, and of the shape that is expected, before anybody looks into them.

A shape is a function that takes a value and where it is ("inspect.Config"), and raises ProtocolError. What a record
has beside its named fields is passed over: engines of other versions have more.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from typing import Any

from phaul.errors import ProtocolError

Json = dict[str, Any]
Shape = Callable[[Any, str], None]

# Of values, about, told before anything is made of them; how deep they may lie in each other; and of integers.
MAX_VALUES, MAX_DEPTH, MAX_NUMBER = 500_000, 64, 1 << 63
MAX_DIGITS = 20
MAX_TEXT, MAX_PATH, MAX_NAME = 1 << 20, 4000, 255


def read(data: bytes, shape: Shape) -> Json:
    """The document. Raises ProtocolError for what is none, or is of another shape."""
    # Each value but the first comes behind one of these, so that there are no more of them.
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise ProtocolError("The peer sent a document of too many values.")
    try:
        document = json.loads(data, parse_int=_integer, parse_float=_float, parse_constant=_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise ProtocolError(f"The peer sent a document that is none: {_reason(error)}.") from None
    if not isinstance(document, dict):
        raise ProtocolError("The peer sent a document that is none: it is no object.")
    _bound_depth(document)
    shape(document, "")
    return document


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at {error.pos}"
    return "it is not UTF-8" if isinstance(error, UnicodeError) else str(error)


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("a number is too large")
    number = int(text)
    if abs(number) >= MAX_NUMBER:
        raise ValueError("a number is too large")
    return number


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _too_deep() -> ProtocolError:
    return ProtocolError("The peer sent a document whose values lie too deep in each other.")


def _bound_depth(document: Json) -> None:
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
        level = [value for value in inner if isinstance(value, dict | list)]
        if not level:
            return
    raise _too_deep()


# Shapes


def wrong(where: str, what: str) -> ProtocolError:
    return ProtocolError(f"The peer sent a document that is none: {where[:80] or 'it'} {what}.")


def anything(_value: Any, _where: str) -> None:
    pass


def flag(value: Any, where: str) -> None:
    if not isinstance(value, bool):
        raise wrong(where, "is neither true nor false")


def number(value: Any, where: str, *, least: int = 0, most: int = MAX_NUMBER) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise wrong(where, "is no number that can be")


def within(least: int, most: int) -> Shape:
    return lambda value, where: number(value, where, least=least, most=most)


def text(value: Any, where: str) -> None:
    """Without a NUL, which no name in the system has; bytes that are no UTF-8 as os.fsdecode has them."""
    if not isinstance(value, str) or "\0" in value or len(value) > MAX_TEXT or not _can_be_bytes(value):
        raise wrong(where, "is no text that can be")


def _can_be_bytes(value: str) -> bool:
    try:
        value.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def place(value: Any, where: str) -> None:
    """A text that can be asked for as a path: the kernel takes no longer ones."""
    text(value, where)
    raw = os.fsencode(value)
    if len(raw) > MAX_PATH or max(map(len, raw.split(b"/"))) > MAX_NAME:
        raise wrong(where, "is too long")


def path(value: Any, where: str) -> None:
    """A whole path, which leads nowhere by dots."""
    place(value, where)
    if not value.startswith("/") or {".", ".."} & set(value.split("/")):
        raise wrong(where, "is no path that can be")


def words(pattern: str) -> Shape:
    """A text that is this, all of it."""
    compiled = re.compile(pattern, re.ASCII | re.DOTALL)

    def shape(value: Any, where: str) -> None:
        text(value, where)
        if not compiled.fullmatch(value):
            raise wrong(where, "is not what it can be")

    return shape


def each(shape: Shape) -> Shape:
    """A list of these."""

    def of_list(value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise wrong(where, "is no list")
        for index, part in enumerate(value):
            shape(part, f"{where}[{index}]")

    return of_list


def table(shape: Shape, names: Shape = text) -> Shape:
    """An object whose names and values are these, however many."""

    def of_table(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise wrong(where, "is no object")
        for name, part in value.items():
            names(name, f"a name in {where}")
            shape(part, f"{where}.{_shown(name)}")

    return of_table


def _shown(name: str) -> str:
    return name[:40] if name.isprintable() else "…"


def row(*shapes: Shape) -> Shape:
    """A list of one of each."""

    def of_row(value: Any, where: str) -> None:
        if not isinstance(value, list) or len(value) != len(shapes):
            raise wrong(where, f"is no list of {len(shapes)}")
        for index, (shape, part) in enumerate(zip(shapes, value, strict=True)):
            shape(part, f"{where}[{index}]")

    return of_row


def nullable(shape: Shape) -> Shape:
    """It, or null."""

    def of_nullable(value: Any, where: str) -> None:
        if value is not None:
            shape(value, where)

    return of_nullable


def optional(shape: Shape) -> Shape:
    """It; in a record it may be missing."""

    def of_optional(value: Any, where: str) -> None:
        shape(value, where)

    of_optional.__dict__["optional"] = True
    return of_optional


def maybe(shape: Shape) -> Shape:
    """It, or null; in a record it may be missing as well."""
    return optional(nullable(shape))


def record(**shapes: Shape) -> Shape:
    """An object that has these fields, and perhaps others."""

    def of_record(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise wrong(where, "is no object")
        for name, shape in shapes.items():
            inner = f"{where}.{name}" if where else name
            if name in value:
                shape(value[name], inner)
            elif not getattr(shape, "optional", False):
                raise wrong(inner, "is missing")

    return of_record
