"""Starting the processes that a lab is made of: the switch, and each host's first process."""

from __future__ import annotations

import select
import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import cache, cgroups, rootfs, tools
from .errors import LabError

PROJECT = Path(__file__).resolve().parents[2]
SWITCH = "switch"
READY = b"ready\n"
TIMEOUT_S = 60
# Joins the cgroups first, since a new cgroup namespace takes the current ones for its roots.
JOIN = 'for group in $LAB_CGROUPS; do echo $$ >"$group/cgroup.procs"; done; unset LAB_CGROUPS; exec "$@"'
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")

_children: list[subprocess.Popen[bytes]] = []


def switch(instance: str, state: Path) -> int:
    """Start the process that holds the switch's network namespace; its pid."""
    script = 'echo ready; exec "$0" >/dev/null 2>&1'
    argv = ["unshare", "--net", "sh", "-c", script, str(tools.directory() / "init")]
    return spawn(f"{instance}.{SWITCH}", argv, state / f"{SWITCH}.log").pid


def host(instance: str, name: str, state: Path, packages: Sequence[str] = ()) -> int:
    """Start a host's first process; its pid once its root is laid out. `packages` are more than hosts have."""
    work = state / name
    work.mkdir()
    (state / "shared").mkdir(exist_ok=True)
    pycache = cache.CACHE / "pycache" / cache.key(str(PROJECT))
    pycache.mkdir(parents=True, exist_ok=True)
    layout = [rootfs.host_root(packages), work, PROJECT, tools.directory(), pycache, name]
    mounts = [hierarchy.spec for hierarchy in cgroups.hierarchies()]
    script = [tools.GUEST / "host.sh", *layout, *mounts]
    argv = ["unshare", *NAMESPACES, "--fork", "--kill-child", "sh", *map(str, script)]
    parent = spawn(f"{instance}.{name}", argv, state / f"{name}.log").pid
    return int(Path(f"/proc/{parent}/task/{parent}/children").read_text())


def spawn(name: str, argv: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process in cgroups of its own and wait for its word that it is ready."""
    groups = cgroups.make(name)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LAB_CGROUPS": " ".join(map(str, groups))}
    with log.open("wb") as words:
        process = subprocess.Popen(
            ["sh", "-ec", JOIN, "sh", *argv],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            start_new_session=True,
            cwd="/",
        )
    _children.append(process)
    assert process.stdout is not None
    with process.stdout as pipe:
        readable, _, _ = select.select([pipe], [], [], TIMEOUT_S)
        if not readable or pipe.readline() != READY:
            raise LabError(f"{name} does not start: {log.read_text(errors='replace').strip()}")
    return process


def reap() -> None:
    """Take note of the end of those that this process started."""
    for process in list(_children):
        if process.poll() is not None:
            _children.remove(process)
