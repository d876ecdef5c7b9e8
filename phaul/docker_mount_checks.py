"""What a container sees of file systems beside its own layers: mounts made inside it, bind mounts, odd volumes.

Reading only. What `wanted` carries of it to the target: `bind_files`, FileSeen documents by the path on the host.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from phaul import pid_files, tasks_seen
from phaul.errors import Blocker, Caution, Finding
from phaul.pid_files import FileSeen

Json = dict[str, Any]

# Which CRIU restores wherever they are: they have no content, or it travels in the images.
DUMPED = ("tmpfs", "proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "devtmpfs", "debugfs", "tracefs")
ENGINES_OWN = ("/", "/sbin/docker-init", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
LOCAL_TYPES = ("", "none", "tmpfs")


def made_inside(pids: list[int], inspect: Json, name: str) -> list[Blocker]:
    """File systems that somebody mounted within the container, and that CRIU cannot mount at the target."""
    known = {*ENGINES_OWN, *(mount["Destination"] for mount in inspect["Mounts"])}
    mounts = {mount for pid in _one_of_each_namespace(pids) for mount in tasks_seen.mounts(pid)}
    devices = {mount.device for mount in mounts if mount.point in known}
    odd = sorted({(mount.kind, mount.point) for mount in mounts if mount.device not in devices})
    return [
        Blocker(
            "mount-inside",
            f"In container {name} a file system of type {kind} is mounted on {point}, which CRIU cannot do again",
            "unmount it there, or have it mounted by the engine",
            f"container {name}",
        )
        for kind, point in odd
        if kind not in DUMPED
    ]


def _one_of_each_namespace(pids: list[int]) -> list[int]:
    return list({tasks_seen.namespace(pid, "mnt"): pid for pid in pids}.values())


def files_in_binds(pids: list[int], inspect: Json) -> list[FileSeen]:
    """Files in bind mounts that tasks have open or mapped, by their paths on this host."""
    found: dict[str, FileSeen] = {}
    for pid in pids:
        for seen in pid_files.opened(pid):
            path = _on_host(seen.path, inspect)
            if path:
                found[path] = FileSeen(path, seen.size, seen.grows)
        for inside in pid_files.mapped(pid):
            path = _on_host(inside, inspect)
            with contextlib.suppress(OSError):
                if path:
                    found.setdefault(path, FileSeen(path, os.stat(path).st_size, grows=False))
    return sorted(found.values(), key=lambda seen: seen.path)


def _on_host(path: str, inspect: Json) -> str:
    """Where a path that the tasks see is on this host, if in a bind mount; the innermost mount counts."""
    inner = [mount for mount in inspect["Mounts"] if Path(path).is_relative_to(mount["Destination"])]
    mount = max(inner, key=lambda mount: len(mount["Destination"]), default=None)
    if mount is None or mount["Type"] != "bind":
        return ""
    return str(Path(mount["Source"]) / Path(path).relative_to(mount["Destination"]))


def binds_here(wanted: Json, here: str) -> list[Finding]:
    """At the target: what is mounted from its own file system must be there, with the files that are open."""
    found: list[Finding] = []
    for source, kind in wanted["binds"].items():
        path = Path(source)
        if wanted["copy_binds"]:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                remedy = "move it away, or leave out --copy-binds to use it"
                found.append(Blocker("bind-exists", f"{source} on {here} is not empty", remedy, here))
            if _is_read_only(path):
                remedy = "let p.haul-service write there (its unit has ProtectSystem=full), or leave out --copy-binds"
                found.append(
                    Blocker("bind-read-only", f"{source} on {here} is on a read-only file system", remedy, here)
                )
        elif not path.exists():
            reason = f"The bind-mounted {kind} {source} is not on {here}"
            found.append(Blocker("bind-missing", reason, "put it there or use --copy-binds", here))
        else:
            found += _used(source, wanted, here)
    return found


def _is_read_only(path: Path) -> bool:
    """Whether nothing can be made there, or where the directories to it end."""
    there = next(one for one in (path, *path.parents) if one.exists())
    return bool(os.statvfs(there).f_flag & os.ST_RDONLY)


def _used(source: str, wanted: Json, here: str) -> list[Finding]:
    """A bind mount that is at both hosts, of which nothing is copied."""
    seen = [FileSeen.of_document(document) for document in wanted["bind_files"]]
    mine = [file for file in seen if Path(file.path).is_relative_to(source)]
    lacking = pid_files.lacking(mine, Path("/"))
    if lacking:
        reason = f"The container has files open in {source}: on {here} {lacking[0]}"
        return [Blocker("bind-differs", reason, "share or copy that directory, or use --copy-binds", here)]
    reason = f"Nothing of {source} is copied: the container will see what {here} has there"
    return [Caution("bind-shared", reason, "make sure that it is the same, or shared storage", here)]


def volumes_here(wanted: Json, here: str) -> list[Blocker]:
    """At the target: volumes whose options say that their content is elsewhere."""
    found = []
    for volume in wanted["volumes"]:
        options, subject = volume.get("Options") or {}, f"volume {volume['Name']}"
        kind, device = options.get("type", ""), options.get("device", "")
        if kind not in LOCAL_TYPES:
            reason = f"V{subject[1:]} is a mount of type {kind} ({device}), which would be copied onto itself"
            found.append(Blocker("volume-remote", reason, "mount it on both hosts, and bind-mount it", subject))
        elif kind != "tmpfs" and device and not Path(device).is_dir():
            reason = f"V{subject[1:]} is in {device}, which is not on {here}"
            found.append(Blocker("volume-device", reason, "make that directory there", subject))
        elif kind != "tmpfs" and device and any(Path(device).iterdir()):
            reason = f"V{subject[1:]} is in {device}, which is not empty on {here}"
            found.append(Blocker("volume-exists", reason, "move what is in it away there", subject))
    return found
