"""inotify(7): the kernel's word on what happens to files. Numbers and shapes are those of linux/inotify.h."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

MODIFY, ATTRIB, CLOSE_WRITE, MOVED_FROM, MOVED_TO = 0x2, 0x4, 0x8, 0x40, 0x80
CREATE, DELETE, DELETE_SELF, MOVE_SELF = 0x100, 0x200, 0x400, 0x800
UNMOUNT, OVERFLOW, IGNORED = 0x2000, 0x4000, 0x8000
ONLY_DIRECTORIES, DONT_FOLLOW, EXCEPT_UNLINKED, IS_DIRECTORY = 0x01000000, 0x02000000, 0x04000000, 0x40000000

_HEAD = struct.Struct("=iIII")
_BATCH = 64 << 10
_LIBC = ctypes.CDLL(None, use_errno=True)


class Event(NamedTuple):
    """`name` is what it happened to in the watched directory; "": the watched file or directory itself."""

    watch: int
    mask: int
    name: str


class Inotify:
    """A queue of events. Raises OSError (EMFILE) where this user has as many as are allowed."""

    def __init__(self) -> None:
        self._descriptor = _checked(_LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def fileno(self) -> int:
        return self._descriptor

    def add(self, path: str, mask: int) -> int:
        """Watch a file: the watch's number, which is the same for all names of one file. Raises OSError."""
        return _checked(_LIBC.inotify_add_watch(self._descriptor, os.fsencode(path), ctypes.c_uint32(mask)))

    def read(self) -> Iterator[Event]:
        """What is there now, and no more than fits into one read; nothing: there is none."""
        try:
            data = os.read(self._descriptor, _BATCH)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            watch, mask, _, length = _HEAD.unpack_from(data, at)
            at += _HEAD.size + length
            yield Event(watch, mask, os.fsdecode(data[at - length : at].rstrip(b"\0")))

    def close(self) -> None:
        os.close(self._descriptor)


def _checked(result: int) -> int:
    """Raises OSError where the C library says so."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
