"""A dump in which CRIU takes no page: it sees none, and dump_pages adds what it would have written of them.

In a lazy dump CRIU puts each page into a pipe, to serve it from there, and P.Haul, which reads the frozen tasks, asks
for none: 65 ms for each GiB, in the downtime. So CRIU gets a mount namespace of its own, in which the tasks'
/proc/<pid>/pagemap is covered by that of runc, which has nothing where tasks have their memory, or seldom: what CRIU
writes of that is thrown away. While CRIU is at the rest of its work, P.Haul looks at the true pagemap.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import platform
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from phaul import dirty, tasks_seen
from phaul.dirty import Memory
from phaul.host_facts import version_of
from phaul.procfs import PROC

LOG = logging.getLogger("phaul.dump")
WRAPPER = ("unshare", "--mount", "--propagation", "unchanged")
GUARDS_SINCE = (6, 13)
WORTH_BYTES = 16 << 20  # a task costs P.Haul a millisecond, and CRIU that for so much memory
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
    guards = dirty.tells_guards() or version_of(platform.release()) < GUARDS_SINCE
    return dirty.can_scan() and guards


def hide(pids: Sequence[int], runc: int) -> list[int]:
    """From CRIU, which the process `runc`, started with WRAPPER, has started: the frozen tasks of which it sees no page
    now. The others, which are small, or where that cannot be, it dumps with their memory.
    """
    large = [pid for pid in pids if tasks_seen.memory([pid]) >= WORTH_BYTES]
    hidden: list[int] = []
    # It ends in another mount namespace than it began in.
    thread = threading.Thread(target=_cover, args=(large, runc, hidden), name="unseen")
    thread.start()
    thread.join()
    return hidden


def look(hidden: Sequence[int]) -> list[Looked]:
    """At those tasks. Raises HaulFailed (dirty)."""
    return [Looked(pid, tasks_seen.inner_pid(pid), dirty.memory(pid)) for pid in hidden]


def _cover(pids: Sequence[int], runc: int, hidden: list[int]) -> None:
    try:
        namespace = os.open(PROC / str(runc) / "ns" / "mnt", os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.closing(os.fdopen(namespace)):
            _must(_LIBC.unshare(_CLONE_FS))  # threads share where they are, and such cannot go elsewhere
            _must(_LIBC.setns(namespace, _CLONE_NEWNS))
        _mount(None, PROC, _MS_PRIVATE)  # or the mounts would be everybody's
        for pid in pids:
            _mount(PROC / str(runc) / "pagemap", PROC / str(pid) / "pagemap", _MS_BIND)
            hidden.append(pid)
    except OSError as error:
        LOG.warning("CRIU sees the memory of %d tasks of %d: %s", len(pids) - len(hidden), len(pids), error)


def _mount(source: os.PathLike[str] | None, point: os.PathLike[str], flags: int) -> None:
    what = None if source is None else os.fsencode(source)
    _must(_LIBC.mount(what, os.fsencode(point), None, ctypes.c_ulong(flags), None))


def _must(status: int) -> None:
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
