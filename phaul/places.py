"""Where P.Haul keeps things on a host; each root can be moved by its environment variable."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

ETC = Path(os.environ.get("PHAUL_ETC", "/etc/phaul"))
STATE = Path(os.environ.get("PHAUL_STATE", "/var/lib/phaul"))
RUN = Path(os.environ.get("PHAUL_RUN", "/run/phaul"))
LOGS = Path(os.environ.get("PHAUL_LOGS", "/var/log/phaul"))

JOURNALS = STATE / "journal"
WORK = STATE / "work"
RESTORE = RUN / "restore"
PAGES = RUN / "pages"

RESOLVE_HINT = "p.haul --resolve"


def private_dir(path: Path) -> Path:
    """The directory, made with its parents where missing, readable by its owner alone (0700)."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path


def host_id() -> str:
    """A random name of this host's state directory, made at first use."""
    path = private_dir(STATE) / "host-id"
    with contextlib.suppress(FileExistsError), path.open("x") as file:
        file.write(secrets.token_hex(16))
    return path.read_text()


def log_dir(haul: str) -> Path:
    return private_dir(LOGS / haul)
