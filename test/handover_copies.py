"""A driver of P.Haul whose copies are words: what becomes of one is a line of the file `events`.

So is each state that a journal comes to, in the words of handover_model.py, in the order in which all of it
happened. The memory is a word too, which turns from "missing" to "all" while a source serves it.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from phaul import htype, journal, places
from phaul.connection import Connection
from phaul.errors import Finding, HaulFailed
from phaul.messages_pb2 import Expectation
from phaul.policy import Policy

NAME = "it"
ABLE = htype.Capabilities.of_words(["hold", "post_copy"])


class Place:
    """The directory of one play."""

    top = Path()

    @classmethod
    def move(cls, top: Path) -> None:
        cls.top = top
        for name in ("STATE", "RUN", "LOGS"):
            setattr(places, name, top / name.lower())
        places.JOURNALS, places.WORK = places.STATE / "journal", places.STATE / "work"
        for path in (places.RUN, places.JOURNALS, places.LOGS):
            path.mkdir(parents=True)
        (top / "events").touch()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Nobody else does, writes down or kills anything meanwhile."""
    with (Place.top / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def happens(name: str) -> None:
    with (Place.top / "events").open("a") as file:
        file.write(f"{name}\n")


def events() -> list[str]:
    return (Place.top / "events").read_text().split()


def last(side: str, default: str) -> str:
    """What the copy of that side is."""
    found = [name for name in events() if name.startswith(f"{side}:")]
    return found[-1] if found else default


def act(name: str, *, unless: tuple[str, ...], default: str = "") -> None:
    """It happens to a copy, unless that is so already."""
    with alone():
        if last(name[0], default) not in unless:
            happens(name)


# The driver


class Source:
    def __init__(self, subject: str, _: argparse.Namespace) -> None:
        self.name = subject

    def image(self, _: list[str]) -> None: ...

    def trees(self) -> list[htype.Tree]:
        return []

    def written(self) -> None: ...

    @contextlib.contextmanager
    def poised(self, *_: Any, **__: Any) -> Iterator[None]:
        yield

    def freeze(self, record: journal.Journal) -> None:
        record.push("freeze")
        act("s:freeze", unless=())

    def stands_still(self) -> None: ...

    def dump(self, *_: Any, **__: Any) -> htype.Dumped:
        return htype.Dumped({}, Expectation())

    @staticmethod
    def tasks(_: dict[str, Any]) -> dict[int, int]:
        return {}

    @staticmethod
    def finish(_: dict[str, Any]) -> list[str]:
        act("s:end", unless=("s:end",))
        return []

    @staticmethod
    def undo(*_: Any) -> None:
        act("s:thaw", unless=("s:thaw",), default="s:thaw")


class Target:
    def __init__(self, _: dict[str, Any], record: journal.Journal, __: Policy) -> None:
        self.record = record

    @staticmethod
    def admit(_: dict[str, Any], __: Policy) -> list[Finding]:
        return []

    def prepare(self) -> list[Path]:
        return []

    def poise(self, *_: Any, **__: Any) -> None:
        self.record.push("hold")

    def restore(self, *_: Any) -> str:
        act("t:hold", unless=())
        return NAME

    def pids(self) -> list[int]:
        return []

    def commence(self) -> None: ...

    def ready(self) -> None:
        if not is_held():
            raise HaulFailed("It is not held.", code="not-held")

    @staticmethod
    def release(_: dict[str, Any]) -> None:
        with alone():
            if last("t", "") == "t:hold" and not is_held():
                raise HaulFailed("It is not held.", code="not-held")
        act("t:run", unless=("t:run", "t:gone"))

    @staticmethod
    def kill(_: dict[str, Any]) -> None:
        act("t:gone", unless=("t:gone",))

    @staticmethod
    def settle(_: dict[str, Any]) -> None: ...

    @staticmethod
    def undo(*_: Any) -> None:
        act("t:gone", unless=("t:gone", ""))


DRIVER = htype.Driver("play", ABLE, Source, Target, lambda _: None)


def is_held() -> bool:
    """Whether who is to hold the target's copy until it is released lives."""
    return last("t", "") == "t:hold" and not (Place.top / "unheld").exists()


# The memory


def memory() -> str:
    with contextlib.suppress(FileNotFoundError):
        return (Place.top / "memory").read_text()
    return "missing"


def missing(_: str, *, patience: float = 0.0) -> int:
    """As pages_target.missing."""
    with alone():
        if memory() == "missing" and is_served():
            (Place.top / "memory").write_text("all")
        if memory() in ("dead", "left"):
            raise HaulFailed("The pager is dead.", code="pages")
        return 0 if memory() == "all" else 4096


def is_served() -> bool:
    with contextlib.suppress(OSError, ValueError):
        pid = int((Place.top / "served").read_text())
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def leave(_: str) -> None:
    """As pages_target.leave: nobody can be asked of the memory any more."""
    with alone():
        (Place.top / "memory").write_text("left")


class Serving:
    """In the place of pages_source.Serving and its Memory."""

    failure = None

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def start(self, _: dict[str, Connection]) -> None: ...

    def push(self) -> None:
        (Place.top / "served").write_text(f"{os.getpid()}")

    def close(self) -> None:
        (Place.top / "served").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
