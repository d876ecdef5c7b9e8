"""userfaultfd(2): filling the missing pages of another process, and its word on what became of its mappings.

Numbers and shapes are those of linux/userfaultfd.h. All addresses and lengths are whole pages.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from dataclasses import dataclass

from phaul.errors import HaulFailed

PAGE = 4096
COPY, ZEROPAGE, WAKE, UNREGISTER = 0xC028AA03, 0xC020AA04, 0x8010AA02, 0x8010AA01
PAGEFAULT, FORK, REMAP, REMOVE, UNMAP = 0x12, 0x13, 0x14, 0x15, 0x16

_MESSAGE = struct.Struct("=B7x24s")
_BATCH = 64
_GONE = (errno.ESRCH, errno.ENOSPC)


class Gone(Exception):
    """The process, or its memory, is there no more."""


class Changing(Exception):
    """It changes its mappings just now: its events come first, then what was tried is to be tried again."""


@dataclass(frozen=True)
class Event:
    """What a process did: a fault at `start`; a fork (`start` is the child's descriptor); a range moved or gone."""

    kind: int
    start: int = 0
    end: int = 0
    to: int = 0


_U64, _S64 = ctypes.c_uint64, ctypes.c_int64


class _Copy(ctypes.Structure):
    _fields_ = (("dst", _U64), ("src", _U64), ("len", _U64), ("mode", _U64), ("copy", _S64))


class _Zero(ctypes.Structure):
    _fields_ = (("start", _U64), ("len", _U64), ("mode", _U64), ("zeropage", _S64))


class _Range(ctypes.Structure):
    _fields_ = (("start", _U64), ("len", _U64))


_LIBC = ctypes.CDLL(None, use_errno=True)


def _ioctl(descriptor: int, what: int, argument: ctypes.Structure) -> int:
    """0, or the errno."""
    return 0 if _LIBC.ioctl(descriptor, ctypes.c_ulong(what), ctypes.byref(argument)) == 0 else ctypes.get_errno()


def events(descriptor: int) -> list[Event]:
    """What there is to be read just now; faults last, since the kernel gives them first, whatever came before them.

    A fault whose event is not there yet cannot be served wrongly: until that is read, all is Changing.
    """
    data = b""
    with contextlib.suppress(BlockingIOError):
        while more := os.read(descriptor, _MESSAGE.size * _BATCH):
            data += more
    found = [_event(kind, words) for kind, words in _MESSAGE.iter_unpack(data)]
    return sorted(found, key=lambda event: event.kind == PAGEFAULT)


def _event(kind: int, words: bytes) -> Event:
    first, second, third = struct.unpack("=QQQ", words)
    if kind == PAGEFAULT:
        return Event(kind, second & -PAGE, (second & -PAGE) + PAGE)
    if kind == FORK:
        return Event(kind, first & 0xFFFFFFFF)
    if kind == REMAP:
        return Event(kind, first, first + third, second)
    return Event(kind, first, second)


def copy(descriptor: int, source: int, start: int, length: int) -> None:
    """Put `length` bytes of our memory at `source` into the missing pages at `start`; pages that are there stay.

    Raises Gone, Changing (nothing says how much was done: repeat all of it), HaulFailed (pages).
    """
    done, most = 0, length
    while done < length:
        wish = _Copy(start + done, source + done, min(most, length - done), 0, 0)
        why = _ioctl(descriptor, COPY, wish)
        if not why or wish.copy > 0:
            done += wish.copy
        elif why == errno.ENOENT and wish.len > PAGE:
            # It may reach over the border of two mappings: mprotect(2) and the like make new ones, and no event.
            most = max(PAGE, wish.len // 2 & -PAGE)
        elif why in (errno.EEXIST, errno.ENOENT):
            # There already, or no page of a mapping that the program still has: the next one.
            wake(descriptor, start + done, PAGE)
            done += PAGE
        else:
            _raise(why, "UFFDIO_COPY", start + done)


def zero(descriptor: int, start: int) -> None:
    """Make the page one of zeros, if it is missing. Raises as `copy` does."""
    why = _ioctl(descriptor, ZEROPAGE, _Zero(start, PAGE, 0, 0))
    if why in (errno.EEXIST, errno.ENOENT):
        wake(descriptor, start, PAGE)
    elif why:
        _raise(why, "UFFDIO_ZEROPAGE", start)


def forget(descriptor: int, start: int, end: int) -> None:
    """Faults in the range are the kernel's own affair from now on."""
    why = _ioctl(descriptor, UNREGISTER, _Range(start, end - start))
    # ENOMEM is what the kernel says of a process that is gone; EINVAL of a range that is.
    if why and why not in (errno.ENOMEM, errno.EINVAL, *_GONE):
        _raise(why, "UFFDIO_UNREGISTER", start)


def wake(descriptor: int, start: int, length: int) -> None:
    """Let threads that wait for pages of the range try again."""
    _ioctl(descriptor, WAKE, _Range(start, length))


def _raise(why: int, what: str, address: int) -> None:
    if why == errno.EAGAIN:
        raise Changing
    if why in _GONE:
        raise Gone
    raise HaulFailed(f"{what} at {address:#x}: {os.strerror(why)}.", code="pages")
