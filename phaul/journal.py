"""What a host knows of a haul, on disk before it is done: states, and undo steps not yet undone.

One file for a haul and a side, one JSON object a line, each fsynced before the act it announces:

    {"haul": "…", "side": "source", "type": "docker", "subject": "web", "peer": "10.0.0.2", "begun": 1764000000.0}
    {"push": 0, "kind": "pause", "args": {"id": "…"}}     an act follows that `kind` undoes
    {"state": "frozen"}
    {"undone": 0}

A torn last line (power loss in mid-write) announces nothing and is ignored. A line in the middle that
is none (the disk lost it) is what nobody may go on from: what followed it may have been done. The file
is locked (flock) by the process that carries the haul out, so that who finds it unlocked may settle it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phaul import places, tasks_seen
from phaul.errors import HaulFailed, Refused

LOG = logging.getLogger("phaul.journal")

SOURCE, TARGET = "source", "target"
BEGUN, FROZEN, COMMITTED, HELD, RUNNING, DONE, UNDONE, LOST = (
    "begun",
    "frozen",
    "committed",
    "held",
    "running",
    "done",
    "undone",
    "lost",
)

# Who may follow whom. COMMITTED ends in UNDONE only after the target said that its copy is gone.
# RUNNING ends in UNDONE only where the tasks turned out to be held by nobody before they had run.
# LOST: the tasks were ended, as memory that they needed could not come any more.
TRANSITIONS: dict[str, dict[str, tuple[str, ...]]] = {
    SOURCE: {
        BEGUN: (FROZEN, UNDONE),
        FROZEN: (COMMITTED, UNDONE),
        COMMITTED: (DONE, UNDONE),
        DONE: (),
        UNDONE: (),
    },
    TARGET: {
        BEGUN: (HELD, UNDONE),
        HELD: (RUNNING, UNDONE),
        RUNNING: (DONE, LOST, UNDONE),
        DONE: (),
        UNDONE: (),
        LOST: (),
    },
}
SETTLED = (DONE, UNDONE, LOST)
KEEP = 200
HEAD = ("haul", "side", "type", "subject", "peer", "begun", "boot")
CLOSED = -1


class Busy(Exception):
    """Another process carries this haul out."""


class Damaged(Refused):
    """A line of a journal, not its last, is none."""

    code = "journal-damaged"

    def __init__(self, record: Journal) -> None:
        what = f"the haul of {record.subject}" if record.head else "a haul"
        super().__init__(
            f"The journal {record.path} of {what} is damaged in line {record.damaged}: nobody knows how far it came; "
            "see which of its copies is to live, on both hosts, and move the file away."
        )


class NotWritten(HaulFailed):
    """A record could not be brought to the disk: what it announces is not done."""

    code = "journal"

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path} cannot be written: {error.strerror}. A haul needs room there on both hosts.")


@dataclass(frozen=True)
class Step:
    """One undo step: the driver's word for it and its arguments (JSON)."""

    number: int
    kind: str
    args: dict[str, Any]


class Journal:
    """One haul's journal, locked by this process until close()."""

    def __init__(self, path: Path, file_descriptor: int) -> None:
        self.path = path
        self._fd = file_descriptor
        self.head: dict[str, Any] = {}
        self.state = BEGUN
        self.damaged = 0  # the number of the line that is none; the state is that before it
        self._steps: dict[int, Step] = {}
        self._pushed = 0

    @property
    def haul(self) -> str:
        return str(self.head["haul"])

    @property
    def side(self) -> str:
        return str(self.head["side"])

    @property
    def subject(self) -> str:
        return str(self.head["subject"])

    @property
    def power_lost(self) -> bool:
        """Whether this host was started anew since the haul began: what ran on it then is gone."""
        return bool(self.head["boot"] != tasks_seen.boot_id())

    @property
    def settled(self) -> bool:
        return self.state in SETTLED

    @property
    def steps(self) -> tuple[Step, ...]:
        """Undo steps pushed and not undone, the newest first."""
        return tuple(sorted(self._steps.values(), key=lambda step: -step.number))

    def advance(self, state: str) -> None:
        """Go over to the state, on disk first. Raises ValueError for a transition that is not in the table."""
        if state not in TRANSITIONS[self.side][self.state]:
            raise ValueError(f"haul {self.haul}: {self.side} cannot go from {self.state} to {state}")
        self._write({"state": state})

    def push(self, kind: str, **args: Any) -> int:
        """Announce an act that `kind` undoes, before it is done; its number, for `forget`."""
        self._write({"push": self._pushed, "kind": kind, "args": args})
        return self._pushed - 1

    def forget(self, number: int) -> None:
        """The step is undone, or needs no undoing any more."""
        self._write({"undone": number})

    def note(self, **facts: Any) -> None:
        """Facts that a later reader needs (the new container's id, say); they end in `head`."""
        self._write({"note": facts})

    def roll_back(self, undo: Callable[[str, dict[str, Any]], None]) -> list[str]:
        """Undo every step, the newest first; the sentences of those that failed (they stay pushed)."""
        failed = []
        for step in self.steps:
            try:
                undo(step.kind, step.args)
                self.forget(step.number)
            except Exception as error:
                failed.append(f"{step.kind}: {error}")
        return failed

    def close(self) -> None:
        """Nothing is written any more, even if another file has the descriptor by now."""
        descriptor, self._fd = self._fd, CLOSED
        os.close(descriptor)

    def _write(self, record: dict[str, Any]) -> None:
        """On disk whole, or not at all: a torn line that others follow would end the reading. Raises NotWritten."""
        data = json.dumps(record).encode() + b"\n"
        try:
            before = os.fstat(self._fd).st_size
            try:
                if os.write(self._fd, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._fd)
            except OSError:
                os.ftruncate(self._fd, before)
                raise
        except OSError as error:
            raise NotWritten(self.path, error) from None
        self._apply(record)

    def _apply(self, record: dict[str, Any]) -> None:
        if "state" in record:
            self.state = record["state"]
        elif "push" in record:
            number = int(record["push"])
            self._steps[number] = Step(number, record["kind"], record["args"])
            self._pushed = number + 1
        elif "undone" in record:
            self._steps.pop(int(record["undone"]), None)
        elif "note" in record:
            self.head.update(record["note"])
        elif not self.head:
            self.head = record

    def _read(self) -> int:
        """Apply what is on disk, as far as it is whole; how many bytes whole lines have."""
        *lines, torn = (data := self.path.read_bytes()).split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                self._apply(_checked(json.loads(line), first=number == 1))
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                self.damaged = number
                break
        return len(data) - len(torn)


def begin(side: str, *, haul: str, haul_type: str, subject: str, peer: str, **facts: Any) -> Journal:
    """A new journal, locked; raises FileExistsError where this haul has one, NotWritten."""
    path = places.JOURNALS / f"{haul}.{side}"
    try:
        places.private_dir(places.JOURNALS)
        _prune()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise
    except OSError as error:
        raise NotWritten(path, error) from None
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    journal = Journal(path, descriptor)
    head = {"haul": haul, "side": side, "type": haul_type, "subject": subject, "peer": peer, "begun": time.time()}
    try:
        journal._write({**head, "boot": tasks_seen.boot_id(), **facts})
        _sync_directory()
    except (OSError, NotWritten):
        path.unlink()
        journal.close()
        raise
    return journal


def _checked(record: Any, *, first: bool) -> dict[str, Any]:
    """What a line says. Raises ValueError, KeyError or TypeError where it is no record that may stand there."""
    if first:
        if record["side"] not in TRANSITIONS or {"state", "push", "undone", "note"} & record.keys():
            raise ValueError(record)
        return {**{key: record[key] for key in HEAD}, **record}
    if "push" in record:
        return {"kind": record["kind"], "args": {**record["args"]}, "push": int(record["push"])}
    if "undone" in record:
        return {"undone": int(record["undone"])}
    if "note" in record:
        if record["note"].keys() & set(HEAD):
            raise ValueError(record["note"])
        return {"note": {**record["note"]}}
    if record["state"] not in (*SETTLED, FROZEN, COMMITTED, HELD, RUNNING):
        raise ValueError(record["state"])
    return {"state": record["state"]}


def take(path: Path, *, wait: bool = False) -> Journal:
    """Open and lock an existing journal, to be carried on.

    Raises Busy where its owner lives (unless `wait`), FileNotFoundError, Damaged, NotWritten.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NotWritten(path, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        raise Busy(path.name) from None
    journal = Journal(path, descriptor)
    whole = journal._read()
    if journal.damaged:
        journal.close()
        raise Damaged(journal)
    if whole != os.fstat(descriptor).st_size:
        os.ftruncate(descriptor, whole)
    return journal


def read(path: Path) -> Journal:
    """A journal as it stands, for looking only: not locked, not to be written."""
    journal = Journal(path, CLOSED)
    journal._read()
    return journal


def is_carried(path: Path) -> bool:
    """Whether a process carries this haul out, or settles it, just now. Raises FileNotFoundError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def find(side: str, haul: str) -> Path:
    return places.JOURNALS / f"{haul}.{side}"


def all_of(side: str) -> Iterator[Path]:
    """The paths of this side's journals, the newest haul first."""
    for path in sorted(places.JOURNALS.glob(f"*.{side}"), reverse=True):
        with contextlib.suppress(FileNotFoundError):  # another process prunes them
            if path.stat().st_size:
                yield path


def unsettled(side: str) -> Iterator[Journal]:
    """Journals of this side whose haul has not ended (locked ones too), for looking only."""
    for path in all_of(side):
        with contextlib.suppress(FileNotFoundError):
            journal = read(path)
            if journal.head and not journal.settled:
                yield journal
            elif journal.damaged and not journal.head:
                LOG.error("%s", Damaged(journal).sentence)


def _prune() -> None:
    """Old settled journals go, and their hauls' logs; the newest KEEP stay: they answer what became of a haul."""
    paths = sorted(places.JOURNALS.iterdir(), reverse=True)
    for path in paths[KEEP:]:
        with contextlib.suppress(FileNotFoundError):
            journal = read(path)
            if not (journal.head or journal.damaged) or (journal.settled and not journal.steps):
                path.unlink()
                shutil.rmtree(places.LOGS / path.stem, ignore_errors=True)


def _sync_directory() -> None:
    descriptor = os.open(places.JOURNALS, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
