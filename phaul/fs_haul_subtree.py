"""Which files of a tree a pass must compare by content, as far as no watch over it tells."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from phaul.htype import Tree

# Time stamps are as coarse as the kernel's tick, and clocks are set now and then.
TICK_SECONDS = 2.0


def touched_since(top: Path, moment: float) -> Iterator[str]:
    """Regular files, relative to `top`, whose inode changed at or after `moment` (seconds of time.time()).

    What vanishes meanwhile, in a live pass, is passed over.
    """
    for relative, entry in everything_in(top):
        if entry.is_file(follow_symlinks=False) and _changed(entry) >= moment:
            yield relative


def everything_in(top: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All that is below the directory, by its path relative to that; what vanishes meanwhile is passed over."""
    pending = [""]
    while pending:
        directory = pending.pop()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(top / directory) as entries:
            for entry in entries:
                relative = f"{directory}/{entry.name}" if directory else entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(relative)
                yield relative, entry


def _changed(entry: os.DirEntry[str]) -> float:
    """When its inode changed; 0: it has vanished."""
    with contextlib.suppress(FileNotFoundError):
        return entry.stat(follow_symlinks=False).st_ctime
    return 0


def touched_of(tree: Tree, trees: list[Tree], paths: Iterable[str], moment: float) -> Iterator[str]:
    """Of the paths that the tasks see, those in this tree whose inode changed as `touched_since` says."""
    for name in files_in(tree, trees, paths):
        if os.lstat(tree.path / name).st_ctime >= moment:
            yield name


def files_in(tree: Tree, trees: list[Tree], paths: Iterable[str]) -> Iterator[str]:
    """Of the paths that the tasks see, those whose file is in this tree, relative to it."""
    for name in names_in(tree, trees, paths):
        if (tree.path / name).is_file():
            yield name


def names_in(tree: Tree, trees: list[Tree], paths: Iterable[str]) -> Iterator[str]:
    """Of the paths that the tasks see, those that lead into this tree, relative to it."""
    for path in paths:
        owner = max((t for t in trees if _is_inside(path, t.inside)), key=lambda t: len(t.inside), default=None)
        if owner is tree or (owner and owner.path == tree.path):
            yield str(PurePosixPath(path).relative_to(tree.inside))


def _is_inside(path: str, top: str) -> bool:
    return PurePosixPath(path).is_relative_to(top)
