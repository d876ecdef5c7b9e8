"""Reading proc(5) where tasks choose names: whatever bytes these have, a line ends at a newline, a field at a space."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_ESCAPED = re.compile(rb"\\([0-3][0-7]{2})")


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo: what (`root`) of which file system ("major:minor") is mounted where, and how."""

    number: str
    parent: str
    device: str
    root: str
    point: str
    readonly: bool
    kind: str

    @property
    def place(self) -> tuple[str, str]:
        return self.device, self.root


def lines(path: Path) -> list[str]:
    """The file's lines, as os.fsdecode has them. Raises OSError."""
    return of_bytes(path.read_bytes())


def of_bytes(data: bytes) -> list[str]:
    """str.splitlines would end a line at a form feed, and at six other characters that a name may have."""
    return [os.fsdecode(line) for line in data.split(b"\n") if line]


def unescaped(field: str) -> str:
    """A field of mountinfo: the kernel writes spaces, tabs, newlines and backslashes as octal numbers."""
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), os.fsencode(field)))


def mounts(path: Path) -> Iterator[Mount]:
    """The mounts in a file mountinfo, in its order. Raises OSError."""
    for line in lines(path):
        fields = line.split(" ")
        number, parent, device = fields[:3]
        root, point = map(unescaped, fields[3:5])
        readonly = "ro" in (*fields[5].split(","), *fields[-1].split(","))
        yield Mount(number, parent, device, root, point, readonly, fields[fields.index("-", 6) + 1])


def worded(name: str) -> str:
    """The name as text that can be told to a peer: what is no UTF-8 is written as backslashes and numbers."""
    return os.fsencode(name).decode(errors="backslashreplace")


def mapped_file(pid: int, line: str) -> str:
    """The path in a line of maps; "" where there is none, or it is gone.

    The kernel writes a newline as \\012 there, and that itself likewise: then the link tells.
    """
    fields = line.split(" ", 5)
    path = fields[5].lstrip(" ") if len(fields) == 6 else ""
    if not path.startswith("/"):
        return ""
    if "\\012" in path:
        bounds = "-".join(f"{int(bound, 16):x}" for bound in fields[0].split("-"))
        try:
            path = os.readlink(PROC / str(pid) / "map_files" / bounds)
        except OSError:
            pass
    return path
