"""Things that are slow to make, kept outside the tree under the hash of what they are made from."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from .errors import LabError

CACHE = Path(os.environ.get("PHAUL_LAB_CACHE", "/var/cache/phaul-lab"))
BUILD_TIMEOUT_S = 1200


def key(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def made(name: str, make: Callable[[Path], None]) -> Path:
    """The cached file or directory of that name, made now where it is missing.

    `make` gets a path to create; it becomes visible under its name only when complete, and no
    second process makes it meanwhile.
    """
    final = CACHE / name
    if final.exists():
        return final
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if final.exists():
            return final
        partial = CACHE / f".{name}.partial"
        discard(partial)
        make(partial)
        partial.rename(final)
    return final


def discard(path: Path) -> None:
    """Remove a file or a whole directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def build(argv: Sequence[str | Path], *, cwd: Path | None = None) -> None:
    """Run a build command quietly. Raises LabError with what it said."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise LabError(f"The command {words[0]!r} is missing; test/run installs it.") from None
    if done.returncode:
        raise LabError(f"{' '.join(words)}\nended with {done.returncode}:\n{(done.stderr or done.stdout)[-4000:]}")
