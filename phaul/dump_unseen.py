"""A dump in which CRIU takes no page: it sees none, and dump_pages adds what it would have written of them.

In a lazy dump CRIU puts each page into a pipe, to serve it from there, and P.Haul, which reads the frozen tasks, asks
for none: 65 ms for each GiB, in the downtime. So CRIU gets a mount namespace of its own, in which the tasks'
/proc/<pid>/pagemap is covered by that of a small process, which has nothing where tasks have their memory. (Where it
has, by chance, CRIU writes what the tasks have there, and that is thrown away.) While CRIU is at the rest of its work,
P.Haul looks at the true pagemap.
"""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from phaul import dirty, tasks_seen
from phaul.dirty import Memory
from phaul.errors import HaulFailed
from phaul.procfs import PROC
from phaul.run import ended, start

LOG = logging.getLogger("phaul.dump")
WRAPPER = ("unshare", "--mount", "--propagation", "unchanged")
WORTH_BYTES = 16 << 20  # a task costs P.Haul a millisecond, and CRIU that for so much memory
END_SECONDS = 10
_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000  # linux/sched.h
_MS_BIND, _MS_PRIVATE = 1 << 12, 1 << 18  # linux/mount.h
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Looked:
    """What memory a task has of which CRIU sees none: its pid, that inside."""

    pid: int
    inner: int
    memory: Memory


def possible() -> bool:
    """Whether this host's kernel tells, at one go, of all pages and guard regions that a task may have."""
    return dirty.can_scan() and (dirty.tells_guards() or not dirty.has_guards())


class Cover:
    """The small process; it ends with this one."""

    def __init__(self) -> None:
        self._process = start(["cat"], stdin=subprocess.PIPE)

    def hide(self, pids: Sequence[int], runc: int) -> list[int]:
        """From CRIU, which the process `runc`, started with WRAPPER, has started: the frozen tasks of which it sees no
        page now. The others, which are small, or where that cannot be, it dumps with their memory.
        """
        large = [pid for pid in pids if tasks_seen.memory([pid]) >= WORTH_BYTES]
        hidden: list[int] = []
        # It ends in another mount namespace than it began in.
        thread = threading.Thread(target=self._cover, args=(large, runc, hidden), name="unseen")
        thread.start()
        thread.join()
        return hidden

    def _cover(self, pids: Sequence[int], runc: int, hidden: list[int]) -> None:
        try:
            _enter(runc)
            _mount(None, PROC, _MS_PRIVATE)  # or the mounts would be everybody's
            for pid in pids:
                _mount(PROC / str(self._process.pid) / "pagemap", PROC / str(pid) / "pagemap", _MS_BIND)
                hidden.append(pid)
        except OSError as error:
            LOG.warning("CRIU sees the memory of %d tasks of %d: %s", len(pids) - len(hidden), len(pids), error)

    def close(self) -> None:
        ended(self._process, timeout=END_SECONDS)


def look(hidden: Sequence[int]) -> list[Looked]:
    """At those tasks. Raises HaulFailed (dirty), (gone)."""
    found = [Looked(pid, tasks_seen.inner_pid(pid), dirty.memory(pid)) for pid in hidden]
    for pid in hidden:
        # One that was killed meanwhile had less and less of it.
        if not tasks_seen.memory([pid]):
            raise HaulFailed(f"Process {pid} was killed while it was frozen.", code="gone")
    return found


def _enter(process: int) -> None:
    """Its mount namespace, with this thread alone. Raises OSError."""
    namespace = os.open(PROC / str(process) / "ns" / "mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _must(_LIBC.unshare(_CLONE_FS))  # threads share where they are, and such cannot go elsewhere
        _must(_LIBC.setns(namespace, _CLONE_NEWNS))
    finally:
        os.close(namespace)


def _mount(source: os.PathLike[str] | None, point: os.PathLike[str], flags: int) -> None:
    what = None if source is None else os.fsencode(source)
    _must(_LIBC.mount(what, os.fsencode(point), None, ctypes.c_ulong(flags), None))


def _must(status: int) -> None:
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
