"""A process whose memory is missing, as CRIU leaves one: it does with its mappings what it is told to.

Run as a program it is the puppet: lines of JSON, [name, argument, …], come in, a line with the result of each
goes out. The class drives it. Addresses are bytes, lengths pages; a page is seen as the number that all of it
repeats, or -1.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = 4096
WORDS = PAGE // 8
SYS_USERFAULTFD = 323
UFFDIO_API, UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00
API, MISSING = 0xAA, 1
FEATURES = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6  # EVENT_FORK, _REMAP, _REMOVE, _UNMAP, as CRIU wants them
RESTORED = 0x52535446
MAP_PRIVATE_ANONYMOUS_FIXED = 0x32
MREMAP_MAYMOVE_FIXED, MREMAP_DONTUNMAP = 3, 4
PROT_READ, PROT_RW, DONTNEED = 1, 3, 4
PROGRAM = Path(__file__).resolve()

Reading = list[int]


class Puppet:
    """The other end of a puppet."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.pid = self._process.pid

    def do(self, name: str, *args: Any) -> Any:
        """One order, to its end. Raises EOFError where the puppet is dead."""
        self.begin(name, *args)
        return self.result()

    def begin(self, name: str, *args: Any) -> None:
        assert self._process.stdin
        print(json.dumps([name, *args]), file=self._process.stdin)

    def result(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise EOFError("the puppet is dead")
        return json.loads(line)

    def wait(self) -> int:
        return self._process.wait(30)

    def close(self) -> None:
        for what in (self._process.send_signal, lambda _: self._process.wait()):
            what(signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


class Limbs:
    """What the puppet can do."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        for name in ("mmap", "mremap"):
            getattr(self.libc, name).restype = ctypes.c_size_t
        self.uffd = self._call(self.libc.syscall, SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.ioctl(self.uffd, UFFDIO_API, struct.pack("QQQ", API, FEATURES, 0))
        self.under_way: list[Callable[[], Any]] = []

    def _call(self, function: Any, *args: int) -> int:
        """The C function, other threads running meanwhile. Raises OSError."""
        result = int(function(*(ctypes.c_size_t(arg) for arg in args)))
        if result in (-1, 2**64 - 1):
            raise OSError(ctypes.get_errno(), f"{function.__name__} failed")
        return result

    def map(self, address: int, pages: int) -> None:
        """A plain mapping, in place of what is there."""
        self._call(self.libc.mmap, address, pages * PAGE, PROT_RW, MAP_PRIVATE_ANONYMOUS_FIXED, 2**64 - 1, 0)

    def lack(self, address: int, pages: int) -> None:
        """A mapping whose pages are missing."""
        self.map(address, pages)
        fcntl.ioctl(self.uffd, UFFDIO_REGISTER, struct.pack("QQQQ", address, pages * PAGE, MISSING, 0))

    def hand_over(self, path: str, pid: int) -> None:
        """As CRIU's restore: the pid, and the descriptor with one byte."""
        self.criu = socket.socket(socket.AF_UNIX)
        self.criu.connect(path)
        self.criu.sendall(struct.pack("=i", pid))
        socket.send_fds(self.criu, [b"\0"], [self.uffd])

    def restored(self) -> None:
        os.close(self.uffd)
        self.criu.sendall(struct.pack("=i", RESTORED))
        self.criu.close()

    def read(self, address: int, pages: int) -> Reading:
        buffer = ctypes.create_string_buffer(pages * PAGE)
        self.libc.memcpy(buffer, ctypes.c_size_t(address), ctypes.c_size_t(pages * PAGE))
        content = buffer.raw
        every = [content[at : at + PAGE] for at in range(0, pages * PAGE, PAGE)]
        return [int.from_bytes(page[:8], "little") if page == page[:8] * WORDS else -1 for page in every]

    def write(self, address: int, pages: int, word: int) -> None:
        content = struct.pack("<Q", word) * WORDS * pages
        self.libc.memcpy(ctypes.c_size_t(address), content, ctypes.c_size_t(len(content)))

    def poke(self, address: int, byte: int) -> None:
        ctypes.memset(address, byte, 1)

    def move(self, address: int, pages: int, to: int, pages_there: int, leave: bool = False) -> None:
        """`leave` an empty mapping at the old place."""
        flags = MREMAP_MAYMOVE_FIXED | (MREMAP_DONTUNMAP if leave else 0)
        self._call(self.libc.mremap, address, pages * PAGE, pages_there * PAGE, flags, to)

    def resize(self, address: int, pages: int, pages_then: int) -> None:
        """Where it is."""
        self._call(self.libc.mremap, address, pages * PAGE, pages_then * PAGE, 0)

    def drop(self, address: int, pages: int) -> None:
        self._call(self.libc.madvise, address, pages * PAGE, DONTNEED)

    def unmap(self, address: int, pages: int) -> None:
        self._call(self.libc.munmap, address, pages * PAGE)

    def protect(self, address: int, pages: int, write: bool) -> None:
        self._call(self.libc.mprotect, address, pages * PAGE, PROT_RW if write else PROT_READ)

    def thread(self, *orders: list[Any]) -> None:
        """The orders in a thread of their own; `join` gives the results of the last."""
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.extend(self.obey(*order) for order in orders), daemon=True)
        thread.start()

        def join() -> Any:
            thread.join()
            return results[-1]

        self.under_way.append(join)

    def fork(self, *orders: list[Any]) -> int:
        """The orders in a child, whose pid is returned; `join` gives the results of the last, None if it was killed."""
        ours, theirs = os.pipe()
        pid = os.fork()
        if not pid:
            self.under_way = []
            with os.fdopen(theirs, "w") as end:
                json.dump([self.obey(*order) for order in orders][-1], end)
            os._exit(0)
        os.close(theirs)

        def join() -> Any:
            with os.fdopen(ours) as end:
                said = end.read()
            os.waitpid(pid, 0)
            return json.loads(said) if said else None

        self.under_way.append(join)
        return pid

    def all(self, *orders: list[Any]) -> list[Any]:
        """One after another; the results of each."""
        return [self.obey(*order) for order in orders]

    def waiting(self) -> list[str]:
        """Which system calls the other threads are in, and what they wait for."""
        own = str(threading.get_native_id())
        return [Path(f"/proc/self/task/{t}/wchan").read_text() for t in os.listdir("/proc/self/task") if t != own]

    def join(self) -> list[Any]:
        """The results of all threads and children begun so far, in their order."""
        joins, self.under_way = self.under_way, []
        return [join() for join in joins]

    def obey(self, name: str, *args: Any) -> Any:
        return getattr(self, name)(*args)


def main() -> None:
    limbs = Limbs()
    for line in sys.stdin:
        print(json.dumps(limbs.obey(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
