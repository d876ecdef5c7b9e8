"""The logs of a haul in one file, to be looked at elsewhere: CRIU's, runc's and P.Haul's, and nothing else.

There is no memory in them, and no key; the journal, which has the haul's token, stays where it is.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

# Of the end of each file, as much as fits in all; the smallest is taken in any case.
TAILS = (8 << 20, 1 << 20, 128 << 10, 16 << 10)
# What a reply may be long (connection.MAX_MESSAGE), with room for the rest of it.
MAX_BYTES = 3 << 20


def packed(directory: Path, most: int = MAX_BYTES) -> bytes:
    """A compressed tar of the files in the directory, the ends of those that are long; empty where there are none."""
    files = sorted(path for path in directory.glob("*") if path.is_file() and not path.is_symlink())
    if not files:
        return b""
    data = b""
    for tail in TAILS:
        data = _tar((path.name, _end_of(path, tail)) for path in files)
        if len(data) <= most:
            break
    return data


def _end_of(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most))
        return file.read(most)


def _tar(parts: Iterable[tuple[str, bytes]]) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        for name, data in parts:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o600
            tar.addfile(info, io.BytesIO(data))
    return whole.getvalue()


def write(path: Path, here: bytes, there: bytes) -> None:
    """Both hosts' `packed` in one tar, as source.tar.gz and target.tar.gz. Raises OSError."""
    parts = [(name, data) for name, data in (("source.tar.gz", here), ("target.tar.gz", there)) if data]
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_tar(parts))
