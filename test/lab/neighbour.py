"""Somebody else on the link between the hosts: a network namespace with a cable to the switch."""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType
from typing import IO, Any

from . import switch
from .errors import LabError
from .instance import Lab

NAME, NUMBER = "neighbour", 99


class Neighbour:
    """`ip` is its address. A context manager: at its end all that runs there is gone."""

    def __init__(self, lab: Lab) -> None:
        self.ip = f"{switch.subnet(lab.instance)}.{NUMBER}"
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo ready; exec sleep 1000000"], stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdout and self._holder.stdout.readline()
        self._switch = lab.switch
        self._programs: list[subprocess.Popen[Any]] = []
        try:
            switch.plug(lab.switch, self._holder.pid, NAME, self.ip)
        except LabError:
            self._holder.kill()
            raise

    def python(self, program: str, *words: str, stdin: int | IO[Any] | None = None) -> subprocess.Popen[str]:
        """Start a Python program there; its output is a pipe."""
        argv = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", sys.executable, "-uc", program, *words]
        started = subprocess.Popen(argv, stdin=stdin, stdout=subprocess.PIPE, text=True)
        self._programs.append(started)
        return started

    def answers(self, address: str, port: int) -> bool:
        """Whether something accepts connections there."""
        program = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
        argv = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", sys.executable, "-c", program, address, str(port)]
        return subprocess.run(argv, stderr=subprocess.DEVNULL, timeout=60, check=False).returncode == 0

    def run(self, *argv: str) -> str:
        """What a command there prints."""
        words = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", *argv]
        return subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout

    def __enter__(self) -> Neighbour:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        switch.ip(self._switch, f"link delete dev {NAME}")  # the kernel takes its time for the namespace
        for process in (*self._programs, self._holder):
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
