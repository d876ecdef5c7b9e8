"""Where a container's writable layer is on this host, by both of the engine's image stores.

overlay2 tells it in inspect's GraphDriver; with the containerd image store (the driver is then
called overlayfs) it is what the root of a running container is mounted from, and for one that was
only created what containerd's snapshotter says (containerd's snapshots documentation, `ctr snapshots mounts`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from phaul import procfs
from phaul.errors import HaulFailed
from phaul.run import run

OVERLAY2, CONTAINERD = "overlay2", "overlayfs"
DRIVERS = (OVERLAY2, CONTAINERD)
SOCKETS = (Path("/run/docker/containerd/containerd.sock"), Path("/run/containerd/containerd.sock"))
UPPER = re.compile(r"(?:^|[ ,])upperdir=([^, \n]+)")


def driver(inspect: dict[str, Any]) -> str:
    """The storage driver of a container or image, as inspect shows it (its place moved with engine 29)."""
    graph = inspect.get("GraphDriver") or {}
    snapshot = ((inspect.get("Storage") or {}).get("RootFS") or {}).get("Snapshot") or {}
    return str(graph.get("Name") or snapshot.get("Name") or inspect.get("Driver") or "unknown")


def upper_dir(inspect: dict[str, Any]) -> Path:
    """The upper directory of the container's overlay. Raises HaulFailed (rootfs)."""
    told = ((inspect.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir")
    if told:
        return Path(told)
    pid = int(inspect["State"]["Pid"])
    found = UPPER.search(_root_mount(pid) if pid else _snapshot_mount(str(inspect["Id"])))
    if not found:
        raise HaulFailed(f"Where the writable layer of {inspect['Name'][1:]} is cannot be found.", code="rootfs")
    return Path(found.group(1))


def _root_mount(pid: int) -> str:
    """The line of the root in proc(5) mountinfo."""
    for line in procfs.lines(procfs.PROC / str(pid) / "mountinfo"):
        if line.split(" ")[4] == "/":
            return line
    return ""


def _snapshot_mount(container: str) -> str:
    for socket in SOCKETS:
        if socket.exists():
            snapshots = ["ctr", "--namespace", "moby", "--address", str(socket), "snapshots"]
            done = run([*snapshots, "--snapshotter", CONTAINERD, "mounts", "/", container], timeout=20, check=False)
            if not done.code:
                return done.out
    return ""
