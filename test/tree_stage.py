"""One directory that is followed to another as a haul does it, by the real passes and the real rsync; without tasks."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from phaul import fs_haul, tasks_seen
from phaul.connection import Connection
from phaul.errors import LinkLost
from phaul.fs_passes import Passes
from phaul.htype import Tree
from phaul.link import Link
from phaul.mstats import Stats
from phaul.tasks import Crew

Facts = dict[str, Any]
# What overlayfs notes for itself in a layer, which means nothing elsewhere.
INTERNAL = ("trusted.overlay.origin", "trusted.overlay.impure", "trusted.overlay.uuid")


class Stage:
    """Trees in `there`, one directory each, that follow `trees`; the only task is this process."""

    def __init__(self, work: Path, *trees: Tree) -> None:
        self.trees, self.work = list(trees), work
        self.there = [work / f"there-{number}" for number in range(len(trees))]
        for directory in self.there:
            directory.mkdir()
        self.stats = Stats()
        self._receivers: list[threading.Thread] = []
        self.passes = Passes(self.trees, self._channel, lambda: tasks_seen.written([os.getpid()]), self.stats)

    def _channel(self, name: str) -> Connection:
        ours, theirs = socket.socketpair()
        there = self.there[int(name.removeprefix("tree:"))]
        receiver = threading.Thread(target=self._receive, args=(there, theirs))
        self._receivers.append(receiver)
        receiver.start()
        return Connection(Link(ours, "there"))

    def _receive(self, there: Path, sock: socket.socket) -> None:
        # The other end leaves where a pass fails.
        with contextlib.closing(Connection(Link(sock, "here"))) as channel, contextlib.suppress(LinkLost):
            fs_haul.receive(there, channel, self.work)

    def sync(self) -> None:
        self.passes.sync()

    def first(self) -> None:
        self.passes._first_pass()

    def again(self) -> None:
        self.passes._live_pass()

    def freeze(self, change: Callable[[], object] = lambda: None) -> int:
        """The frozen pass, after a last change when all is poised; the bytes that it moved."""
        before = self.stats.total
        with Crew() as crew:
            poised = self.passes.poise(crew)
            change()
            self.passes.go(crew, poised)
            crew.join()
        return self.stats.total - before

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.passes.close()
        for receiver in self._receivers:
            receiver.join(60)


def survey(top: Path) -> dict[str, Facts]:
    """All that can be seen of the directory and of everything in it, by relative path."""
    found: dict[str, Facts] = {}
    first: dict[int, str] = {}
    pending = [""]
    while pending:
        name = pending.pop()
        path = os.path.join(top, name) if name else str(top)
        info = os.lstat(path)
        whiteout = stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
        if stat.S_ISDIR(info.st_mode):
            pending += sorted((os.path.join(name, entry) for entry in os.listdir(path)), reverse=True)
        found[name] = {"whiteout": True} if whiteout else facts(path, info, first.setdefault(info.st_ino, name))
    return found


def facts(path: str, info: os.stat_result, same: str) -> Facts:
    directory = stat.S_ISDIR(info.st_mode)
    names = (name for name in os.listxattr(path, follow_symlinks=False) if name not in INTERNAL)
    seen: Facts = {
        "mode": oct(info.st_mode),
        "owner": (info.st_uid, info.st_gid),
        "device": info.st_rdev,
        "mtime": info.st_mtime_ns,
        "attributes": {name: os.getxattr(path, name, follow_symlinks=False) for name in names},
        "links": None if directory else info.st_nlink,
        "same as": same,
    }
    if stat.S_ISREG(info.st_mode):
        with open(path, "rb") as file:
            seen |= {"size": info.st_size, "content": hashlib.sha256(file.read()).hexdigest()}
    if stat.S_ISLNK(info.st_mode):
        seen["to"] = os.readlink(path)
    return seen


def differences(before: dict[str, Facts], after: dict[str, Facts]) -> list[str]:
    """One line for each thing that came, went or changed."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        one, two = before.get(name, {}), after.get(name, {})
        lines += [
            f"{name!r} {key}: {one.get(key)} -> {two.get(key)}" for key in one | two if one.get(key) != two.get(key)
        ]
    return lines
