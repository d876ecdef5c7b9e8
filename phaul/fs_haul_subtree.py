"""Which files of a tree the last pass must compare by content: dates alone do not tell that they changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from phaul.htype import Tree

# Time stamps are as coarse as the kernel's tick, and clocks are set now and then.
TICK_SECONDS = 2.0


def touched_since(top: Path, moment: float) -> Iterator[str]:
    """Regular files, relative to `top`, whose inode changed at or after `moment` (seconds of time.time())."""
    pending = [""]
    while pending:
        directory = pending.pop()
        with os.scandir(top / directory) as entries:
            for entry in entries:
                relative = f"{directory}/{entry.name}" if directory else entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(relative)
                elif entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_ctime >= moment:
                    yield relative


def mapped_in(tree: Tree, trees: list[Tree], paths: list[str]) -> Iterator[str]:
    """Of the paths that the tasks see, those whose file is in this tree, relative to it."""
    for path in paths:
        owner = max((t for t in trees if _is_inside(path, t.inside)), key=lambda t: len(t.inside), default=None)
        if owner is tree or (owner and owner.path == tree.path):
            relative = str(PurePosixPath(path).relative_to(tree.inside))
            if (tree.path / relative).is_file():
                yield relative


def _is_inside(path: str, top: str) -> bool:
    return PurePosixPath(path).is_relative_to(top)


def doubtful(tree: Tree, trees: list[Tree], mapped: list[str], since: float) -> list[str]:
    """What the frozen pass compares by content: touched around the last live pass or later, or mapped."""
    return sorted({*touched_since(tree.path, since - TICK_SECONDS), *mapped_in(tree, trees, mapped)})
