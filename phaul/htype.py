"""Haul types: the table of drivers, and the contract between a driver and the workers.

A driver is one module with three names: `CAPABILITIES`, `Source` and `Target`, and two more that say
what of a peer its target half is given at all: `WANTED` and `OPTIONS`, the shapes (documents.py) of
Source.wanted and Dumped.options. The workers (iters, service) ask what a driver can do and never
which one it is. To add one: write the module, add a row to TABLE.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, cast

from phaul import documents
from phaul.documents import Shape
from phaul.errors import Finding, UsageError
from phaul.journal import Journal
from phaul.messages_pb2 import Expectation
from phaul.overview import Answer, Overview
from phaul.policy import Policy
from phaul.tasks_seen import Written

TABLE: dict[str, str] = {
    "docker": "phaul.p_haul_docker",
    "pid": "phaul.p_haul_pid",
}


RESTORE_WORK = "restore-work"


@dataclass(frozen=True)
class Capabilities:
    """What can be done. Of a driver, of a host and of the options; what holds is the intersection."""

    file_system: bool = True  # trees of files travel with it
    image: bool = True  # an image of which the target may have parts travels before it
    hold: bool = True  # restored tasks can be kept from running until released
    pre_dump: bool = True  # the kernel tells which memory changes, so that it can be copied in rounds while it runs
    compare: bool = True  # memory can be compared with what was sent, which does for rounds too
    post_copy: bool = True  # memory can follow after the release
    tcp_keep: bool = True  # established connections can move
    history: bool = True  # what it has said goes with it
    compress: bool = True  # what goes in bulk can be compressed

    def __and__(self, other: Capabilities) -> Capabilities:
        return Capabilities(**{f.name: getattr(self, f.name) and getattr(other, f.name) for f in fields(self)})

    @property
    def in_rounds(self) -> bool:
        """Whether memory can go while it changes."""
        return self.post_copy and (self.pre_dump or self.compare)

    def words(self) -> list[str]:
        return [f.name for f in fields(self) if getattr(self, f.name)]

    @classmethod
    def of_words(cls, words: Any) -> Capabilities:
        """Of the words that a peer sent; unknown ones are ignored."""
        return cls(**{f.name: f.name in set(words) for f in fields(cls)})


@dataclass(frozen=True)
class Tree:
    """A directory that travels: what it is of ("rootfs", "volume", "bind") and where its tasks see it.

    `seen` is where on this host changes by the tasks can be watched: a name there is the name in `path`.
    """

    path: Path
    kind: str
    inside: str
    seen: Path


@dataclass(frozen=True)
class Dumped:
    """What the target must know to restore: CRIU's switches and what the held tasks must look like."""

    options: dict[str, Any]
    expectation: Expectation


class Source(Protocol):
    """The half of a driver where the tasks run now. Made once for a haul; reads only until freeze()."""

    def __init__(self, subject: str, options: argparse.Namespace) -> None: ...

    name: str  # what people call it

    def check(self) -> Sequence[Finding]: ...

    def facts(self) -> dict[str, str]:
        """Versions and the like of what this host moves it with, by name, for people."""

    def overview(self, lacks: list[str]) -> Overview:
        """What would travel to a target that lacks that of the image."""

    def wanted(self) -> dict[str, Any]:
        """What the target needs to know, as JSON; `memory` is the tasks', `bytes` the trees' (if any), in bytes."""

    def trees(self) -> list[Tree]: ...

    def written(self) -> Written:
        """What the tasks have mapped and opened now."""

    def sample(self, most: int) -> list[bytes]:
        """Pieces of the running tasks' memory, spread over it, `most` bytes in all; none where that cannot be had."""

    def image(self, lacks: list[str]) -> Iterator[bytes] | None:
        """The image's bytes without what the target has; None where it lacks nothing."""

    def history(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """What it has said since the last call: pieces by names that the target half knows, and their bytes."""

    def recent(self) -> bytes:
        """What it has said since history(), now that it is frozen, as the target half takes it."""

    def brief_stops(self, journal: Journal) -> AbstractContextManager[Callable[[Callable[[], None]], None]]:
        """For the time before freeze(): what runs a function while all tasks stand still, for a moment each time."""

    def poised(self, journal: Journal, images: Path, logs: Path, *, lazy: bool) -> AbstractContextManager[None]:
        """For the time around freeze() and dump(): what a dump needs is there, as far as it can be while tasks run.

        CRIU's log is in `logs` in the end. Raises HaulFailed (dump).
        """

    def freeze(self, journal: Journal) -> None:
        """Stop the tasks where they are; every undo is pushed before its act."""

    def dump(self, images: Path, *, lazy: bool) -> Dumped:
        """Write the frozen tasks to `images`, but for memory that can be asked for later where `lazy`.

        Raises HaulFailed with the deciding line of CRIU's log.
        """

    def stands_still(self) -> None:
        """Before COMMIT: raises HaulFailed (dump, not-frozen) where the tasks may have run since they were dumped."""

    @staticmethod
    def tasks(facts: dict[str, Any]) -> dict[int, int]:
        """The tasks: from the pid that they see to the pid here. Raises HaulFailed (gone)."""

    @staticmethod
    def finish(facts: dict[str, Any]) -> list[str]:
        """The target runs: end the source copy, for good. `facts` is the journal's head; the sentences to tell."""

    @staticmethod
    def undo(kind: str, args: dict[str, Any]) -> None: ...


class Target(Protocol):
    """The half of a driver where the tasks will run."""

    def __init__(self, wanted: dict[str, Any], journal: Journal, policy: Policy) -> None:
        """Of a document that was admitted."""

    @staticmethod
    def admit(wanted: dict[str, Any], policy: Policy) -> Sequence[Finding]:
        """What of it the policy speaks against; reads only, and the document may be anything of its shape."""

    @staticmethod
    def check(wanted: dict[str, Any], policy: Policy) -> Answer:
        """Reads only, and says what admit() finds as well.

        Raises ValueError, KeyError, TypeError or AttributeError where the document is none, and ProtocolError for what
        no source of ours sends.
        """

    def receive_image(self, chunks: Iterator[bytes]) -> None: ...

    def prepare(self) -> list[Path]:
        """Make everything that can be made before the freeze; where the trees go, in their order."""

    def keep_history(self, name: str, chunks: Iterator[bytes]) -> None:
        """Put a piece of Source.history where it belongs, behind what came of that name. Only before poise()."""

    def keep_recent(self, chunks: Iterator[bytes]) -> None:
        """Source.recent, for restore()."""

    def poise(self, images: Path, *, lazy: bool) -> None:
        """Do what of restore() needs no images yet; the last trees come after it. Raises HaulFailed (restore)."""

    def restore(self, images: Path, options: dict[str, Any], logs: Path) -> str:
        """Restore and hold; the new subject. Raises HaulFailed with the deciding line of CRIU's log.

        CRIU works in RESTORE_WORK beside `images`: a pager waits for lazily dumped tasks there.
        """

    def pids(self) -> list[int]:
        """The held tasks, the first one first."""

    def commence(self) -> None:
        """Whoever looks after the held tasks takes them for started: the release, which is to come next, only lets
        them run. May be repeated. Raises HaulFailed (not-held).
        """

    def ready(self) -> None:
        """Raises HaulFailed (not-held) where a release could not be carried out; after commence(), waits for that."""

    @staticmethod
    def release(facts: dict[str, Any]) -> None:
        """Let the held tasks run; may be repeated after a crash. `facts` is the journal's head."""

    @staticmethod
    def kill(facts: dict[str, Any]) -> None:
        """SIGKILL for the tasks, released or not: memory that they need will not come any more."""

    @staticmethod
    def settle(facts: dict[str, Any]) -> None:
        """After the release: what can wait until it runs."""

    @staticmethod
    def undo(kind: str, args: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Driver:
    """A row of the table, loaded."""

    name: str
    capabilities: Capabilities
    source: type[Source]
    target: type[Target]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    wanted: Shape = documents.anything
    options: Shape = documents.anything
    members: Callable[[str], list[str]] | None = None  # subjects of a group by its name, in the order of their need


def load(name: str) -> Driver:
    """The driver of that name. Raises UsageError (unknown-type) that lists the known ones."""
    if name not in TABLE:
        raise UsageError(
            f"Unknown haul type {name!r}: this P.Haul knows {', '.join(sorted(TABLE))}.", code="unknown-type"
        )
    module = importlib.import_module(TABLE[name])
    return Driver(
        name,
        cast(Capabilities, module.CAPABILITIES),
        cast("type[Source]", module.Source),
        cast("type[Target]", module.Target),
        module.add_arguments,
        getattr(module, "WANTED", documents.anything),
        getattr(module, "OPTIONS", documents.anything),
        getattr(module, "members", None),
    )
