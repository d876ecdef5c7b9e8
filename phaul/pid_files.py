"""The files that processes need to find at the target: open, mapped, or their programs."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phaul import documents, procfs

PROC = procfs.PROC
FILE = documents.record(path=documents.path, size=documents.number, grows=documents.flag)
WRITING = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class FileSeen:
    """A file by its path; size in bytes, which may have become more where a process writes to it (`grows`)."""

    path: str
    size: int
    grows: bool

    def document(self) -> dict[str, Any]:
        return {"path": self.path, "size": self.size, "grows": self.grows}

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> FileSeen:
        return cls(str(document["path"]), int(document["size"]), bool(document["grows"]))


def files_of(pids: list[int]) -> list[FileSeen]:
    """Each file once, by path."""
    found: dict[str, FileSeen] = {}
    for pid in pids:
        for path in mapped(pid):
            with contextlib.suppress(OSError):
                found.setdefault(path, FileSeen(path, os.stat(path).st_size, grows=False))
        for seen in opened(pid):
            found[seen.path] = seen
    return sorted(found.values(), key=lambda seen: seen.path)


def mapped(pid: int) -> set[str]:
    """Paths, as the process sees them."""
    with contextlib.suppress(OSError):
        paths = (procfs.mapped_file(pid, line) for line in procfs.lines(PROC / str(pid) / "maps"))
        return {path for path in paths if path and not path.endswith("(deleted)")}
    return set()


def opened(pid: int) -> list[FileSeen]:
    """Regular files and fifos, by the paths that the process sees."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(PROC / str(pid) / "fd"):
            with contextlib.suppress(OSError, ValueError):
                entry = PROC / str(pid) / "fd" / name
                seen = os.stat(entry)
                path = os.readlink(entry)
                if (
                    (stat.S_ISREG(seen.st_mode) or stat.S_ISFIFO(seen.st_mode))
                    and path.startswith("/")
                    and not path.endswith(" (deleted)")
                ):
                    found.append(FileSeen(path, seen.st_size, grows=bool(_flags(pid, name) & WRITING)))
    return found


def _flags(pid: int, descriptor: str) -> int:
    """Of open(2), in octal in /proc/<pid>/fdinfo/<n>."""
    for line in (PROC / str(pid) / "fdinfo" / descriptor).read_text().splitlines():
        if line.startswith("flags:"):
            return int(line.split()[1], 8)
    return 0


def lacking(files: list[FileSeen], root: Path) -> list[str]:
    """Sentences on files that are not here, or of another size."""
    found = []
    for seen in files:
        try:
            size = os.stat(root / seen.path.lstrip("/")).st_size
        except OSError:
            found.append(f"{seen.path} is missing")
            continue
        if size != seen.size and not (seen.grows and size > seen.size):
            found.append(f"{seen.path} has {size} bytes instead of {seen.size}")
    return found
