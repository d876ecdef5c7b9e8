"""From what has changed in a tree to what rsync is told: never less, and as little more as is simple."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from phaul.fs_watch import GONE, MAX_NAMES, Changes, Doubt, has_others

# No file has it: rsync is told of it to send what it lies in, which is the tree's top.
NO_NAME = ".no file of this name"


@dataclass(frozen=True)
class Feed:
    """Names relative to the tree. `made`: whole, by content, and removed where they are missing; `listed`: in place.

    A directory of `listed` is meant alone, without what is in it.
    """

    made: Iterable[str]
    listed: Iterable[str]


class Plan:
    """What to feed for these changes, as the tree at `top` is now; raises Doubt, OSError."""

    def __init__(self, top: Path, changes: Changes) -> None:
        self._top = str(top)
        self._changes = changes
        self._directories = {""}
        self._made: dict[str, os.stat_result | None] = {}
        self._listed: dict[str, os.stat_result] = {}

    def feed(self, doubtful: Iterable[str]) -> Feed:
        """`doubtful` are further files that may have changed, by content."""
        for name in self._changes.made:
            self._add_made(*self._standing(name))
        for name in (*self._changes.touched, *doubtful):
            standing, info = self._standing(name)
            if info is None or standing != name:
                self._add_made(standing, info)
            else:
                self._listed[name] = info
        self._add_linked()
        made = {name for name in self._made if not self._is_covered(name)}
        listed = {name for name in self._listed if name not in made and not self._is_covered(name)}
        return Feed(tuple(sorted(made)), tuple(sorted(name or NO_NAME for name in listed)))

    def _add_made(self, name: str, info: os.stat_result | None) -> None:
        """With the directory that it lies in, whose date is another one now."""
        self._made[name] = info
        parent = name.rpartition("/")[0]
        self._listed.setdefault(parent, os.lstat(os.path.join(self._top, parent)))

    def _standing(self, name: str) -> tuple[str, os.stat_result | None]:
        """The name, or its beginning that is no directory any more; and what is there, None: nothing."""
        at = 0
        while (at := name.find("/", at + 1)) > 0:
            beginning = name[:at]
            if beginning not in self._directories:
                info = self._look(beginning)
                if info is None or not stat.S_ISDIR(info.st_mode):
                    return beginning, info
                self._directories.add(beginning)
        return name, self._look(name)

    def _look(self, name: str) -> os.stat_result | None:
        try:
            return os.lstat(os.path.join(self._top, name))
        except OSError as error:
            if error.errno in GONE:
                return None
            raise

    def _is_covered(self, name: str) -> bool:
        """Whether it lies in what is fed as a whole."""
        while "/" in name:
            name = name.rpartition("/")[0]
            if name in self._made:
                return True
        return False

    def _add_linked(self) -> None:
        """Files with several names go together, and not in place: what shares a file there may not share it here."""
        known = {**self._made, **self._listed, **self._inside()}
        wanted = {_identity(info): info.st_nlink for info in known.values() if info and has_others(info)}
        if not wanted:
            return
        known |= {name: self._look(name) for name in self._changes.linked}
        groups: dict[tuple[int, int], set[str]] = {one: set() for one in wanted}
        for name, info in known.items():
            if info and _identity(info) in groups:
                groups[_identity(info)].add(name)
                self._add_made(name, info)
        if any(len(names) != wanted[one] for one, names in groups.items()):
            raise Doubt("a file has names that are not known")

    def _inside(self) -> dict[str, os.stat_result]:
        """Files with several names in the directories that go as a whole."""
        found: dict[str, os.stat_result] = {}
        pending = [name for name, info in self._made.items() if info and stat.S_ISDIR(info.st_mode)]
        count = 0
        while pending:
            directory = pending.pop()
            with contextlib.suppress(FileNotFoundError), os.scandir(os.path.join(self._top, directory)) as entries:
                for entry in entries:
                    count += 1
                    info = entry.stat(follow_symlinks=False)
                    name = f"{directory}/{entry.name}"
                    if stat.S_ISDIR(info.st_mode):
                        pending.append(name)
                    elif has_others(info):
                        found[name] = info
            if count > MAX_NAMES:
                raise Doubt(f"more than {MAX_NAMES} files came in new directories")
        return found


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
