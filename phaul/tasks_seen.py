"""What the kernel shows of a container's tasks: used for checks, and to compare frozen with held tasks."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from phaul import procfs
from phaul.messages_pb2 import Expectation, OpenFile, Task

PROC = procfs.PROC
CAP_SYS_RESOURCE = 24
# The kernel's function in which a parent sleeps (kernel/fork.c); its name changed with 5.10.
VFORK_WAITS = ("kernel_clone", "_do_fork", "wait_for_vfork_done")


def status_of(pid: int) -> dict[str, str]:
    """/proc/<pid>/status as a table; empty where the process is gone."""
    with contextlib.suppress(OSError):
        lines = procfs.lines(PROC / str(pid) / "status")
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {}


def boot_id() -> str:
    """Another one each time that this host is started."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def born(pid: int) -> str:
    """Boot and start time of a process, as one word that tells it from every other of the same pid; "": gone."""
    with contextlib.suppress(OSError, IndexError):
        return f"{boot_id()} {(PROC / str(pid) / 'stat').read_bytes().rpartition(b')')[2].split()[19].decode()}"
    return ""


def inner_pid(pid: int) -> int:
    """The pid that the task has in its own pid namespace."""
    return int(status_of(pid).get("NSpid", str(pid)).split()[-1])


def expectation(pids: list[int], *, mounts: bool = True) -> Expectation:
    """Tasks, regular open files and mount points, in terms that do not depend on the host."""
    seen = Expectation()
    for pid in pids:
        status = status_of(pid)
        if not status or status["State"].startswith("Z"):
            continue
        inner = int(status["NSpid"].split()[-1])
        seen.tasks.append(Task(pid=inner, threads=int(status["Threads"]), comm=procfs.worded(status["Name"])))
        seen.files.extend(_open_files(pid, inner))
    seen.tasks.sort(key=lambda task: task.pid)
    seen.files.sort(key=lambda file: (file.pid, file.fd))
    if mounts and pids:
        seen.mounts.extend(mount_points(pids[0]))
    return seen


def _open_files(pid: int, inner: int) -> list[OpenFile]:
    found = []
    directory = PROC / str(pid) / "fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            with contextlib.suppress(OSError):
                seen = os.stat(directory / name)
                if stat.S_ISREG(seen.st_mode):
                    path = os.readlink(directory / name)
                    path = "(deleted)" if path.endswith(" (deleted)") else path
                    found.append(OpenFile(pid=inner, fd=int(name), path=procfs.worded(path), size=seen.st_size))
    return found


@dataclass(frozen=True)
class Mount:
    """A line of proc(5) mountinfo: where the task sees it, device as "major:minor", and the file system's type."""

    point: str
    device: str
    kind: str


def mounts(pid: int) -> list[Mount]:
    """What the task has mounted; nothing where it is gone."""
    with contextlib.suppress(OSError):
        return [Mount(one.point, one.device, one.kind) for one in procfs.mounts(PROC / str(pid) / "mountinfo")]
    return []


def mount_points(pid: int) -> list[str]:
    """Mount points as the task sees them, sorted; field 5 of proc(5) mountinfo."""
    lines = procfs.lines(PROC / str(pid) / "mountinfo")
    return sorted(procfs.worded(line.split(" ")[4]) for line in lines)


def written_through_maps(pid: int) -> set[str]:
    """Files mapped shared and writable: their bytes change without their dates changing (mmap(2))."""
    found = set()
    with contextlib.suppress(OSError):
        for line in procfs.lines(PROC / str(pid) / "maps"):
            access = line.split(" ", 2)[1]
            if access[1] == "w" and access[3] == "s" and (path := procfs.mapped_file(pid, line)):
                found.add(path)
    return found


def open_to_write(pid: int) -> Iterator[tuple[str, bool]]:
    """Regular files that the task has open to write to: by which path, and whether that is gone while another is left.

    What has no name at all is the task's alone, and left out.
    """
    directory = PROC / str(pid) / "fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            with contextlib.suppress(OSError):
                # The link's own mode tells what it was opened for: proc(5), /proc/pid/fd.
                seen = os.stat(directory / name)
                if os.lstat(directory / name).st_mode & stat.S_IWUSR and stat.S_ISREG(seen.st_mode) and seen.st_nlink:
                    path = os.readlink(directory / name)
                    yield path, path.endswith(" (deleted)")


@dataclass(frozen=True)
class Written:
    """Files that the tasks can write to without anybody being told, by the paths that they see."""

    mapped: frozenset[str] = frozenset()  # to write through
    opened: frozenset[str] = frozenset()  # to write to
    nameless: frozenset[str] = frozenset()  # of those opened, which are not called so any more, but otherwise


def written(pids: list[int]) -> Written:
    """What they have mapped and opened now."""
    mapped = frozenset().union(*map(written_through_maps, pids))
    opened = frozenset(seen for pid in pids for seen in open_to_write(pid))
    named, nameless = (frozenset(path for path, gone in opened if gone is which) for which in (False, True))
    return Written(mapped, named, nameless)


def memory(pids: list[int]) -> int:
    """Bytes of anonymous memory that the tasks hold (RssAnon and VmSwap of proc(5))."""
    fields = [status.get(name, "0 kB") for status in map(status_of, pids) for name in ("RssAnon", "VmSwap")]
    return sum(int(field.split()[0]) << 10 for field in fields)


def is_doomed(pid: int) -> bool:
    """Whether SIGKILL waits for it: a frozen task does not end before it is thawed (signal(7), proc(5): SigPnd)."""
    status = status_of(pid)
    pending = (int(status.get(name, "0"), 16) for name in ("SigPnd", "ShdPnd"))
    return any(mask >> (signal.SIGKILL - 1) & 1 for mask in pending)


def waits_in_vfork(pid: int) -> bool:
    """Whether a thread waits for what it started by vfork(2) to run another program: CRIU cannot seize it there."""
    for task in (PROC / str(pid) / "task").glob("*/wchan"):
        with contextlib.suppress(OSError):
            if task.read_text() in VFORK_WAITS:
                return True
    return False


def descriptors(pid: int) -> set[str]:
    """What the links in its fd directory say: paths, "anon_inode:[io_uring]", "socket:[123]" and the like."""
    found = set()
    directory = PROC / str(pid) / "fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            with contextlib.suppress(OSError):
                found.add(os.readlink(directory / name))
    return found


def namespace(pid: int, kind: str) -> str:
    """Its namespace of that kind (namespaces(7)), as one word; "": gone."""
    with contextlib.suppress(OSError):
        return os.readlink(PROC / str(pid) / "ns" / kind)
    return ""


def have_capability(number: int) -> bool:
    """Whether this process has the capability in force."""
    return bool(int(status_of(os.getpid())["CapEff"], 16) >> number & 1)
