"""A network namespace of our own, for a program of CRIU that would listen where others can reach it.

One thread of this process lives in it: what is called or started there is in it too (unshare(2)
moves one thread, and a child has its parent thread's namespaces).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from phaul.errors import HaulFailed

CLONE_NEWNET = 0x40000000
LOOPBACK = "127.0.0.1"
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
_REQUEST = struct.Struct("16sh22x")

P = ParamSpec("P")
R = TypeVar("R")


class PrivateNet:
    """Only its loopback is in it, and that is up. Raises HaulFailed (private-net)."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="private-net")
        self.call(_enter)

    def call(self, what: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do it in there."""
        return self._pool.submit(what, *args, **kwargs).result()

    def close(self) -> None:
        self._pool.shutdown()


def _enter() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        why = os.strerror(ctypes.get_errno())
        raise HaulFailed(f"No network namespace can be made for the dump: {why}.", code="private-net")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        _, flags = _REQUEST.unpack(fcntl.ioctl(any_socket, SIOCGIFFLAGS, _REQUEST.pack(b"lo", 0)))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, _REQUEST.pack(b"lo", flags | IFF_UP))
