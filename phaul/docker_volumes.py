"""The volumes that a container brings, at the target: which of their names are free there."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from phaul import docker_config
from phaul.docker_api import Engine, NoSuch
from phaul.errors import Blocker

Json = dict[str, Any]


def taken(engine: Engine, wanted: Json, here: str) -> list[Blocker]:
    """A volume of that name is welcome when nobody has it, it is empty, and made as the source's is.

    What is in another is never overwritten.
    """
    brought = {volume["Name"]: volume for volume in wanted["volumes"]}
    found = []
    for name in dict.fromkeys(docker_config.named_volumes(wanted["inspect"]["HostConfig"])):
        with contextlib.suppress(NoSuch):
            there = engine.volume(name)
            if why := _of_another(there, brought.get(name, {})) or _used(engine, name):
                reason = f"Volume {name} exists on {here} {why}"
                found.append(Blocker("volume-exists", reason, "remove it there", f"volume {name}"))
    return found


def _of_another(there: Json, brought: Json) -> str:
    path = Path(there["Mountpoint"])
    if path.is_dir() and any(path.iterdir()):
        return "with other content"
    same = there["Driver"] == brought.get("Driver") and (there["Options"] or {}) == (brought.get("Options") or {})
    return "" if same else "with another driver, or other options"


def _used(engine: Engine, name: str) -> str:
    """An empty one may be another container's all the same."""
    for container in engine.containers():
        if any(mount.get("Name") == name for mount in container.get("Mounts") or []):
            return f"and is used by {container['Names'][0].lstrip('/')}"
    return ""
