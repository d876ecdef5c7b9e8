"""Which instances there are, whose they are, and removing them."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from . import cgroups, spawning
from .errors import LabError

STATE = Path("/run/phaul-lab")
OWNER = "owner.json"


def claim(instance: str, *, owner: int) -> None:
    """Take the name for the owner, a pid; 0 for an instance that stays until it is taken down.

    Raises LabError if it is taken. The directory appears with its owner in it, so that nobody
    mistakes a new instance for a leftover.
    """
    STATE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=STATE, prefix=".claim-", ignore_cleanup_errors=True) as directory:
        written = Path(directory) / OWNER
        written.write_text(json.dumps({"pid": owner, "started": started(owner)}))
        try:
            Path(directory).rename(STATE / instance)
        except OSError:
            raise LabError(f"The instance {instance!r} is up already.") from None


def started(pid: int) -> int:
    """When the process was started, in clock ticks since boot, which tells it from a later one of that pid; 0: gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def abandoned(instance: str) -> bool:
    """Whether the instance's owner is dead."""
    try:
        owner = json.loads((STATE / instance / OWNER).read_text())
    except (OSError, ValueError):
        return not (STATE / instance).exists()
    return bool(owner["pid"]) and started(owner["pid"]) != owner["started"]


def instances() -> list[str]:
    """Every instance that has left a trace, whole or not."""
    names = {path.name for path in STATE.glob("[!.]*")} if STATE.exists() else set()
    return sorted(names | cgroups.instances())


def sweep() -> list[str]:
    """Remove the instances whose owner is dead. Returns their names."""
    dead = [instance for instance in instances() if abandoned(instance)]
    for instance in dead:
        remove(instance)
    return dead


def remove(instance: str) -> None:
    """Remove everything of the instance, however much of it there is."""
    cgroups.remove(instance)
    spawning.reap()
    shutil.rmtree(STATE / instance, ignore_errors=True)
    if (STATE / instance).exists():
        raise LabError(f"Cannot remove {STATE / instance}.")
