"""Who moves the workload: the contract, and how bytes get from host to host where a rival has no way of its own."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Any, Protocol

from lab import CommandFailed, Host

from .bed import SHARED, Bed
from .cases import Case

PORT = 9000
HAUL_S = 300
BIND = ("-v", f"{SHARED}:{SHARED}")
# Reads what comes on a TCP connection with a program's standard input, once it has said that it listens.
RECEIVER = """\
import socket, subprocess, sys
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print(flush=True)
peer, _ = server.accept()
sys.exit(subprocess.run(sys.argv[2:], stdin=peer).returncode)
"""
TAR = ("tar", "--blocking-factor=512", "--sparse-version=1.0")


class Rival(Protocol):
    """One way to move the workload. What clean.restore_all does not know of what it leaves, clear() removes."""

    name: str
    words: str  # for people
    alone: bool  # it begins and ends on the source
    copies: int  # how often the workload's memory is there at once, in images and processes on both hosts

    def start(self, bed: Bed, case: Case) -> None:
        """Run the workload on the source, and do all that can be done before anybody would call it a haul."""

    def haul(self, bed: Bed) -> str:
        """Move it: what is measured. What it says, for the record."""

    def clear(self, bed: Bed) -> None: ...


@dataclass
class Receiver:
    """A program on a host that will read what another host sends."""

    host: Host
    port: int
    process: subprocess.Popen[Any]

    @classmethod
    def start(cls, host: Host, *argv: str, port: int = PORT) -> Receiver:
        command = ["python3", "-ISc", RECEIVER, str(port), *argv]
        process = host.popen(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if not process.stdout.readline():
            raise CommandFailed(f"{host.name}: {argv[0]}: {process.communicate()[1].decode(errors='replace')}")
        return cls(host, port, process)

    def finish(self) -> None:
        """It has read all. Raises CommandFailed."""
        _, err = self.process.communicate(timeout=HAUL_S)
        if self.process.returncode:
            raise CommandFailed(f"{self.host.name}: {err.decode(errors='replace')}")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def send(source: Host, receiver: Receiver, command: str) -> None:
    """Run a shell command on the source whose output the receiver gets, by a plain connection: nothing is faster."""
    script = f"{command} >/dev/tcp/{receiver.host.ip}/{receiver.port}"
    source.run("bash", "-ec", script, timeout=HAUL_S)
    receiver.finish()


def send_directories(source: Host, receiver: Receiver, *directories: str) -> None:
    """As a tar archive of their contents, one after another."""
    places = " ".join(f"-C {directory} ." for directory in directories)
    send(source, receiver, f"{' '.join(TAR)} -cf - {places}")
