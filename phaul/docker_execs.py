"""Programs in a container that the engine started beside its own: docker exec, and health probes.

They are no children of its first task, and would stay behind. Probes pass in a moment; what somebody
else runs is in the way, or ended where that is asked for.
"""

from __future__ import annotations

import contextlib
from typing import Any

import psutil

from phaul.docker_api import Engine, NoSuch
from phaul.errors import Blocker, Caution, Finding

Json = dict[str, Any]
END_SECONDS = 10


def running(engine: Engine, inspect: Json) -> list[Json]:
    """Sessions and probes, as the engine's exec inspect shows them."""
    found = []
    for exec_id in inspect.get("ExecIDs") or []:
        with contextlib.suppress(NoSuch):
            seen = engine.exec(exec_id)
            if seen["Running"]:
                found.append(seen)
    return found


def sessions(engine: Engine, inspect: Json) -> list[Json]:
    """Those that are no probes: the freeze comes between these."""
    return [seen for seen in running(engine, inspect) if not _is_probe(inspect, seen)]


def _is_probe(inspect: Json, seen: Json) -> bool:
    kind, *words = (inspect["Config"].get("Healthcheck") or {}).get("Test") or [""]
    command = [seen["ProcessConfig"]["entrypoint"], *(seen["ProcessConfig"]["arguments"] or [])]
    return command == words if kind == "CMD" else kind == "CMD-SHELL" and command[-1:] == words


def findings(engine: Engine, inspect: Json, name: str, *, kill: bool) -> list[Finding]:
    """What there is to say of sessions, which will be ended where they are to be killed."""
    if not sessions(engine, inspect):
        return []
    reason, subject = f"A docker exec session runs in {name}", f"container {name}"
    if kill:
        return [Caution("exec-running", reason, "--kill-exec ends it before the freeze", subject)]
    remedy = f"end it first (docker top {name} shows it), or let the haul do it (--kill-exec)"
    return [Blocker("exec-running", reason, remedy, subject)]


def kill(engine: Engine, inspect: Json) -> None:
    """SIGKILL for the sessions and what they have started; they have ended then, or take longer than END_SECONDS."""
    ending: list[psutil.Process] = []
    for seen in sessions(engine, inspect):
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(seen["Pid"]))
            ending += [*process.children(recursive=True), process]
    for process in ending:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(ending, timeout=END_SECONDS)
