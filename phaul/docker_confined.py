"""Whether restored tasks are confined as the engine would confine those that it starts itself.

CRIU gives them what the images say: credentials, namespaces, mounts. So they are held against what
the engine told the runtime of this container, while they are frozen: its config.json
(https://github.com/opencontainers/runtime-spec, config-linux.md), which the policy has seen.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from phaul import procfs, tasks_seen
from phaul.errors import HaulFailed
from phaul.procfs import Mount

Json = dict[str, Any]
PROC = procfs.PROC
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
SYS_ADMIN, SYS_NICE = 21, 23
# By their names in /proc/<pid>/ns; the user namespace is the engine's business.
NAMESPACES = {"mount": "mnt", "pid": "pid", "ipc": "ipc", "uts": "uts", "network": "net", "cgroup": "cgroup"}
MAX_STEPS = 1000
PLAIN_SCHEDULING = (os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE)
# Of the kernel's numbers (capability.h), so that names in a configuration are bits.
_NUMBERED = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
NAMES = tuple(_NUMBERED.split())


def must_be_confined(pids: Iterable[int], spec: Json) -> None:
    """Raises HaulFailed (not-confined) where a task may do more than the configuration lets it."""
    living = [pid for pid in pids if not tasks_seen.status_of(pid).get("State", "Z").startswith("Z")]
    bound, hosts = _bound(spec), _hosts_namespaces(spec)
    for pid in living:
        for words in (*_of_task(pid, spec, bound), *_of_namespaces(pid, hosts)):
            _fail(pid, words)
    outside = mounts(1)  # a unit of systemd sees less itself
    # Tasks share their mounts mostly.
    for pid in {tasks_seen.namespace(pid, "mnt"): pid for pid in living}.values():
        for words in _of_mounts(mounts(pid), outside, spec):
            _fail(pid, words)


def _fail(pid: int, words: str) -> None:
    sentence = f"Restored task {tasks_seen.inner_pid(pid)} {words}, which its container's configuration does not allow."
    raise HaulFailed(sentence, code="not-confined")


def _of_task(pid: int, spec: Json, bound: int) -> Iterator[str]:
    process = spec["process"]
    for name in os.listdir(PROC / str(pid) / "task"):
        status = tasks_seen.status_of(int(name))
        for which in SETS:
            if more := int(status.get(which, "0"), 16) & ~bound:
                yield f"has the capability {_name(more.bit_length() - 1)}"
        if spec["linux"].get("seccomp") and status.get("Seccomp", "0") == "0":
            yield "runs without seccomp"
        if process.get("noNewPrivileges") and status.get("NoNewPrivs") != "1":
            yield "may gain privileges"
        if not bound >> SYS_NICE & 1 and _scheduling(int(name)) not in PLAIN_SCHEDULING:
            yield "is scheduled before the host's own"
    yield from _of_profile(pid, process.get("apparmorProfile") or "")
    score = int((PROC / str(pid) / "oom_score_adj").read_text())
    if score < min(0, int(process.get("oomScoreAdj") or 0)):
        yield f"has the oom_score_adj {score}"


def _scheduling(task: int) -> int:
    return os.sched_getscheduler(task) & ~os.SCHED_RESET_ON_FORK


def _bound(spec: Json) -> int:
    """The capabilities that the container may have, as the kernel shows them."""
    named = {name.removeprefix("CAP_") for name in (spec["process"].get("capabilities") or {}).get("bounding") or []}
    return sum(1 << number for number, name in enumerate(NAMES) if name in named)


def _name(bit: int) -> str:
    return NAMES[bit] if bit < len(NAMES) else str(bit)


def _hosts_namespaces(spec: Json) -> dict[str, set[str]]:
    """The host's of each type of which the container is to have one of its own."""
    types = [wanted["type"] for wanted in spec["linux"].get("namespaces") or [] if wanted["type"] in NAMESPACES]
    return {one: {tasks_seen.namespace(pid, NAMESPACES[one]) for pid in (1, os.getpid())} for one in types}


def _of_namespaces(pid: int, hosts: dict[str, set[str]]) -> Iterator[str]:
    for one, theirs in hosts.items():
        if tasks_seen.namespace(pid, NAMESPACES[one]) in theirs:
            yield f"is in the host's {one} namespace"


def _of_profile(pid: int, profile: str) -> Iterator[str]:
    if profile in ("", "unconfined"):
        return
    said = (PROC / str(pid) / "attr/current").read_bytes().rstrip(b"\0\n").decode(errors="replace")
    if said.rpartition(" (")[0] != profile:
        yield f"is confined by {said[:40] or 'nothing'}, not by the AppArmor profile {profile}"


def mounts(pid: int) -> list[Mount]:
    """What the task sees."""
    return list(procfs.mounts(PROC / str(pid) / "mountinfo"))


def _of_mounts(inside: Sequence[Mount], outside: Sequence[Mount], spec: Json) -> Iterator[str]:
    """What it sees of the kernel and of the host, and where it may write to it."""
    top = spec["root"]["path"]
    asked = {"/": _root(spec), **{_followed(top, mount["destination"]): mount for mount in spec["mounts"]}}
    masked, readonly = (spec["linux"].get(name) or [] for name in ("maskedPaths", "readonlyPaths"))
    seen = {mount.point: mount for mount in inside}
    # Who may mount, mounts what it likes.
    if not _bound(spec) >> SYS_ADMIN & 1:
        yield from _of_others(inside, seen, {*asked, *masked, *readonly}, asked, outside)
    for point, wish in asked.items():
        if point in seen:
            yield from _of_one(seen[point], wish, outside)
    yield from (f"sees {point}" for point in masked if os.path.lexists(point) and not _masks(seen.get(point)))
    for point in readonly:
        if os.path.lexists(point) and not (point in seen and seen[point].readonly):
            yield f"may write to {point}"


def _followed(top: str, path: str) -> str:
    """Where the path leads within that root directory, as runc mounts on it: no symlink leads out of it."""
    left, done = path.split("/"), "/"
    for _ in range(MAX_STEPS):
        if not left:
            break
        word = left.pop(0)
        done = os.path.normpath(os.path.join(done, word))
        try:
            link = os.readlink(top + done)
        except OSError:
            continue
        left = [*link.split("/"), *left]
        done = "/" if link.startswith("/") else os.path.dirname(done)
    return done


def _root(spec: Json) -> Json:
    options = ["bind", *(["ro"] if spec["root"].get("readonly") else [])]
    return {"destination": "/", "source": spec["root"]["path"], "options": options}


def _of_others(
    inside: Sequence[Mount],
    seen: dict[str, Mount],
    known: Collection[str],
    asked: dict[str, Json],
    outside: Sequence[Mount],
) -> Iterator[str]:
    """Mounts that the runtime would not make, or that would hide one that it makes."""
    if len(seen) < len(inside):
        yield "has two file systems mounted on one another"
    for mount in inside:
        under = seen.get(_nearest(mount.point, seen))
        if under and mount.point != "/" and mount.parent != under.number:
            yield f"has something mounted over {mount.point}"
        if mount.point not in known and not _comes_with(mount, asked, outside):
            yield f"has a file system of type {mount.kind} on {mount.point}"


def _nearest(point: str, points: Collection[str]) -> str:
    """Of those the innermost that the point is beneath."""
    above = [str(parent) for parent in Path(point).parents if str(parent) in points]
    return above[0] if above else ""


def _comes_with(mount: Mount, asked: dict[str, Json], outside: Sequence[Mount]) -> bool:
    """Whether it is part of a mount that is asked for: a hierarchy of cgroups, or what is mounted in a directory."""
    above = _nearest(mount.point, asked)
    wish = asked.get(above, {})
    if wish.get("type") == "cgroup":
        return mount.kind == "cgroup" and (mount.readonly or "ro" not in (wish.get("options") or []))
    if "rbind" not in (wish.get("options") or []):
        return False
    return mount.place == _place(os.path.join(wish["source"], os.path.relpath(mount.point, above)), outside)


def _of_one(mount: Mount, wish: Json, outside: Sequence[Mount]) -> Iterator[str]:
    options, kind = wish.get("options") or [], wish.get("type")
    if kind == "cgroup" and mount.kind == "tmpfs":
        return  # its own, for the hierarchies of v1, which are mounted in it
    if {"bind", "rbind"} & set(options):
        if mount.place != _place(wish["source"], outside):
            yield f"has something else than {wish['source']} on {mount.point}"
    elif mount.kind != kind and not (kind == "cgroup" and mount.kind == "cgroup2"):
        yield f"has a file system of type {mount.kind} on {mount.point}, not {kind}"
    if "ro" in options and not mount.readonly:
        yield f"may write to {mount.point}"


def _place(path: str, outside: Sequence[Mount]) -> tuple[str, str]:
    """Where a path of this host is: its file system's device, and the path within that."""
    real = os.path.realpath(path)
    above = [mount for mount in outside if Path(real).is_relative_to(mount.point)]
    # Of those on one point the last is seen.
    mount = max(reversed(above), key=lambda mount: len(mount.point))
    rest = os.path.relpath(real, mount.point)
    return mount.device, os.path.normpath(os.path.join(mount.root, rest))


def _masks(mount: Mount | None) -> bool:
    """As runc masks: an empty tmpfs that cannot be written to, or /dev/null."""
    return bool(mount and (mount.root == "/null" or (mount.kind == "tmpfs" and mount.readonly)))
