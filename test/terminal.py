"""P.Haul on a terminal in the lab: what a person would see there, at each moment."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import termios
import threading
from types import TracebackType

import pyte
from faults import CLEAN_S
from hauling import HAUL_TIMEOUT_S, wait_for
from lab import Host
from lab.host import kill_group

LINES = 40
QUIET_S = 0.02
CTRL_C = b"\x03"
# Makes the terminal its own, so that its keys reach it as a person's would.
ON_ITS_OWN = """
import fcntl, os, sys, termios
if os.getpid() != os.getsid(0):
    os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A command on a terminal that is so many columns wide. Also a context manager, which kills it at the end."""

    def __init__(self, host: Host, *argv: str, columns: int) -> None:
        self.columns = columns
        self.raw = b""
        self._gone = False
        self.pictures: list[str] = []  # each that stood still for a moment
        self._screen = pyte.Screen(columns, LINES)
        self._stream = pyte.ByteStream(self._screen)
        self._ours, theirs = os.openpty()
        self._over, self._end = os.pipe()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
        self.process = host.popen(
            *("python3", "-c", ON_ITS_OWN, *argv), env={"TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # nobody has the other end any more
            while self._over not in select.select([self._ours, self._over], [], [])[0]:
                piece = os.read(self._ours, 1 << 16)
                self.raw += piece
                self._stream.feed(piece)
                if not select.select([self._ours], [], [], QUIET_S)[0]:
                    self.pictures.append(self.picture())

    def picture(self) -> str:
        """What it shows now."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def hang_up(self) -> None:
        """The terminal is gone, which what runs there hears as SIGHUP."""
        os.write(self._end, b".")
        self._reader.join(CLEAN_S)
        os.close(self._ours)
        self._gone = True

    def shows(self, pattern: str) -> str:
        """The first picture in which the pattern is found, once there is one; ^ and $ are a line's ends."""

        def found() -> str:
            return next((seen for seen in list(self.pictures) if re.search(pattern, seen, re.MULTILINE)), "")

        return wait_for(found, f"a picture of {pattern}", CLEAN_S)

    def ended(self) -> int:
        """Its exit status, once it has ended."""
        status = self.process.wait(HAUL_TIMEOUT_S)
        self._reader.join(CLEAN_S)
        return status

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            kill_group(self.process)
        self._reader.join(CLEAN_S)
        for descriptor in (self._over, self._end, *(() if self._gone else (self._ours,))):
            os.close(descriptor)
