"""`p.haul-service setup`: keys, directories, the restore runtime in the engine's daemon.json, applied by reload."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from phaul import docker_config, docker_target_checks, keys, places
from phaul.docker_api import Engine
from phaul.docker_host_checks import RUNTIME_FILES
from phaul.errors import PhaulError, Refused
from phaul.freezer import deadline

DAEMON_JSON = Path(os.environ.get("PHAUL_DAEMON_JSON", "/etc/docker/daemon.json"))
RUNTIME_DIR = Path(os.environ.get("PHAUL_RUNTIME_DIR", "/usr/local/lib/phaul"))
RELOAD_SECONDS = 15.0


def setup() -> list[str]:
    """Prepare this host; what was done, a line each. Running it again changes nothing that is right."""
    changed = _changed()  # what cannot be done is refused before anything is
    told = [f"Key {keys.Identity.load_or_make().fingerprint} in {places.ETC}"]
    for directory in (places.JOURNALS, places.WORK, places.LOGS, places.RUN, places.RESTORE, places.PAGES):
        places.private_dir(directory)
    places.host_id()
    told.append(f"Directories {places.STATE}, {places.LOGS}, {places.RUN}")
    told.append(_install_runtime())
    told += _register(changed)
    return [*told, *(f"Not yet: {blocker.sentence}" for blocker in docker_target_checks.of_host(platform.node()))]


def _install_runtime() -> str:
    """Copies, at a place that does not move: the engine keeps the path for as long as containers use it."""
    RUNTIME_DIR.mkdir(parents=True, exist_ok=True)
    for name in RUNTIME_FILES:
        source, goal = Path(__file__).with_name(name), RUNTIME_DIR / name
        if goal.exists() and goal.read_bytes() == source.read_bytes() and os.access(goal, os.X_OK):
            continue
        temporary = goal.with_suffix(".new")
        shutil.copyfile(source, temporary)
        temporary.chmod(0o755)
        temporary.rename(goal)
    return f"Restore runtime {RUNTIME_DIR / RUNTIME_FILES[0]}"


def merged(text: str, runtime: str) -> str | None:
    """daemon.json with the runtime in it; None where it is there already. Raises Refused (daemon-json)."""
    try:
        document: Any = json.loads(text) if text.strip() else {}
        json.dumps(document, allow_nan=False)  # what is no JSON would not be when it is written again either
    except (ValueError, RecursionError) as error:
        raise Refused(
            f"{DAEMON_JSON} is not JSON ({error}): mend it first; nothing was changed.", code="daemon-json"
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("runtimes", {}), dict):
        raise Refused(
            f"{DAEMON_JSON} is not what the engine expects: mend it first; nothing was changed.", code="daemon-json"
        )
    runtimes = document.setdefault("runtimes", {})
    wish = {"path": runtime}
    if runtimes.get(docker_config.RUNTIME) == wish:
        return None
    runtimes[docker_config.RUNTIME] = wish
    return json.dumps(document, indent=2) + "\n"


def _changed() -> str | None:
    """What daemon.json is to become, if it is to change."""
    try:
        text = DAEMON_JSON.read_text() if DAEMON_JSON.exists() else ""
    except ValueError as error:
        raise Refused(
            f"{DAEMON_JSON} is not text ({error}): mend it first; nothing was changed.", code="daemon-json"
        ) from None
    return merged(text, str(RUNTIME_DIR / RUNTIME_FILES[0]))


def _register(changed: str | None) -> list[str]:
    told = []
    if changed is not None:
        _write(changed)
        told.append(f"Runtime {docker_config.RUNTIME} written to {DAEMON_JSON}, the rest of it as it was")
    if _known_to_engine():
        return [*told, "The engine knows the runtime already" if changed is None else "The engine knows the runtime"]
    return [*told, _reload()]


def _write(text: str) -> None:
    DAEMON_JSON.parent.mkdir(parents=True, exist_ok=True)
    mode = DAEMON_JSON.stat().st_mode & 0o777 if DAEMON_JSON.exists() else 0o644
    with tempfile.NamedTemporaryFile("w", dir=DAEMON_JSON.parent, delete=False) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(mode)
    Path(file.name).rename(DAEMON_JSON)


def _known_to_engine() -> bool:
    """At the place where it is: the name alone may stand for that of an earlier installation."""
    try:
        known = Engine(timeout=10).info()["Runtimes"].get(docker_config.RUNTIME)
        return bool(known and known.get("path") == str(RUNTIME_DIR / RUNTIME_FILES[0]))
    except PhaulError:
        return False


def _reload() -> str:
    """SIGHUP makes the engine read its runtimes again; no container is disturbed, no restart is needed."""
    daemons = [process for process in psutil.process_iter(["name"]) if process.info["name"] == "dockerd"]
    if not daemons:
        return "No engine runs here now: it will read the runtime when it starts"
    since = time.time()
    for daemon in daemons:
        with contextlib.suppress(psutil.Error):
            daemon.send_signal(signal.SIGHUP)
    _await_reload(since)
    if not _known_to_engine():
        raise Refused(f"The engine did not take the runtime from {DAEMON_JSON}: see its log.", code="runtime-missing")
    return "The engine was told to reload (SIGHUP); no container was disturbed"


def _await_reload(since: float) -> None:
    """The engine says on its event stream that it has reloaded."""
    until = deadline(RELOAD_SECONDS)
    api = Engine(timeout=RELOAD_SECONDS).api
    stream = api.events(
        since=int(since) - 1,
        until=int(since + RELOAD_SECONDS),
        filters={"type": "daemon", "event": "reload"},
        decode=True,
    )
    with contextlib.closing(stream):
        for _ in stream:
            if _known_to_engine() or deadline(0) > until:
                return
