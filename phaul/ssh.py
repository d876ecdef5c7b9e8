"""Links through ssh: one authenticated master, and through it one remote service process per link.

The environment variable PHAUL_SSH holds the words of the ssh command, by default "ssh".
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO

from phaul import run
from phaul.errors import Refused, Unreachable
from phaul.link import Link

REMOTE = "p.haul-service --stdio"
NOT_FOUND = 127
_ENDS_S = 3.0
# A dead connection is noticed after 15 s.
_ALIVE = ("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3", "-o", "ConnectTimeout=10")


class SshLink(Link):
    """A link whose far end is an ssh process; closing it ends that process."""

    def __init__(
        self, sock: socket.socket, destination: str, process: subprocess.Popen[bytes], words: IO[bytes]
    ) -> None:
        super().__init__(sock, destination)
        self._process, self._words = process, words
        self._reaping = threading.Lock()

    def close(self) -> None:
        super().close()
        with self._reaping, contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDS_S)
        run.kill(self._process)

    def failure(self) -> Unreachable | None:
        """Why ssh ended, once the link is closed; None where the remote service had been started."""
        code = self._process.returncode
        if code == NOT_FOUND:
            sentence = f"p.haul-service is not installed on {self.peer}, or not in its PATH."
            return Unreachable(sentence, code="service-not-installed")
        return _failed(self.peer, code, self._words) if code else None


class Master:
    """The ssh connection to one destination; `open` sets it up, and again after it broke."""

    def __init__(self, destination: str) -> None:
        self.destination = destination
        self._directory = Path(tempfile.mkdtemp(prefix="phaul-ssh-"))
        self._one = threading.Lock()

    def open(self) -> SshLink:
        """A new link to the remote service; ssh may ask on the terminal first. Raises Unreachable."""
        with self._one:
            if not self._is_up():
                self._start()
        ours, theirs = socket.socketpair()
        words: IO[bytes] = tempfile.TemporaryFile(dir=self._directory)
        with theirs:
            # Not in the terminal's process group: Ctrl-C must leave us the link to roll back over.
            argv = self._argv("-T", "-o", "BatchMode=yes", "-o", "ControlMaster=no", command=REMOTE)
            process = run.start(argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=words.fileno())
        return SshLink(ours, self.destination, process, words)

    def close(self) -> None:
        """End the ssh connection and every link through it."""
        with contextlib.suppress(subprocess.TimeoutExpired, OSError, Refused):
            self._control("exit")
        shutil.rmtree(self._directory, ignore_errors=True)

    def _argv(self, *options: str, command: str = "") -> list[str]:
        ssh = shlex.split(os.environ.get("PHAUL_SSH", "ssh")) or ["ssh"]
        control = ("-o", f"ControlPath={self._directory / 'master'}")
        return [run.tool(ssh[0]), *ssh[1:], *options, *control, *_ALIVE, "--", self.destination, *command.split()]

    def _control(self, word: str) -> bool:
        argv = self._argv("-O", word)
        done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
        return done.returncode == 0

    def _is_up(self) -> bool:
        try:
            return self._control("check")
        except subprocess.TimeoutExpired:
            return False

    def _start(self) -> None:
        """Authenticate; the process that this starts goes into the background when that is done."""
        (self._directory / "master").unlink(missing_ok=True)
        # ControlPersist ends a master that nobody uses, should this program be killed.
        argv = self._argv("-f", "-N", "-o", "ControlMaster=yes", "-o", "ControlPersist=60")
        # In the terminal's process group, unlike other commands, because it may have to ask there.
        # Its words go to a file: a pipe would stay open for as long as the master lives.
        with tempfile.TemporaryFile(dir=self._directory) as words:
            code = subprocess.call(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words)
            if code:
                raise _failed(self.destination, code, words)


def _failed(destination: str, code: int, words: IO[bytes]) -> Unreachable:
    words.seek(0)
    lines = [line.strip() for line in words.read(1 << 16).decode(errors="replace").splitlines() if line.strip()]
    last = lines[-1] if lines else f"exit status {code}"
    sentence = f"ssh to {destination} failed: {last.rstrip('.')}."
    return Unreachable(sentence, code="ssh-failed", detail="\n".join(lines[:-1]))
