"""A whole machine as a host of the lab."""

from __future__ import annotations

import functools
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..dockerd import Dockerd
from ..engine import Engine
from ..errors import CommandTimedOut, LabError
from ..host import Host, said
from .machine import Machine

CLIENT = Path(__file__).resolve().parent / "client.py"
KILL_S = 20


@dataclass(frozen=True)
class VmHost(Host):
    """A running machine: what Host offers, but for path(), since no other machine sees its files."""

    machine: Machine = field(default=None)  # type: ignore[assignment] # never left out
    token: Path = Path()
    far = True
    slow: list[float] = field(default_factory=lambda: [1.0], compare=False, repr=False)

    def path(self, inside: str) -> Path:
        raise LabError(f"{inside} of {self.name} cannot be opened from here: it is another machine's.")

    def proc(self, name: str) -> str:
        return self.read("cat", f"/proc/1/{name}").decode()

    def ask(self, what: str, **facts: Any) -> Any:
        answer = self.run(
            "python3", "-m", "lab.vm.inside", what, json.dumps(facts), timeout=90, env={"PYTHONPATH": "/opt/lab"}
        )
        return json.loads(answer.out)

    @functools.cached_property
    def kept_baseline(self) -> str:
        """Where the machine has written down what it holds; what each test leaves is removed, so once is enough."""
        return str(self.ask("baseline"))

    @property
    def port(self) -> int:
        return self.machine.port

    def argv(self, *argv: str | Path) -> list[str]:
        return [sys.executable, "-IS", str(CLIENT), str(self.port), str(self.token), "--", *map(str, argv)]

    def _run(
        self,
        argv: tuple[str | Path, ...],
        *,
        timeout: float,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes, bytes]:
        """As Host's; `timeout` is meant for a machine at full speed."""
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        with self.popen(*argv, env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                out, err = process.communicate(input, timeout * self.slow[0])
            except subprocess.TimeoutExpired:
                words = b"".join(self.kill_command(process)).decode(errors="replace")
                raise CommandTimedOut(
                    f"{self.name}: {said(argv)}\ntook longer than {timeout * self.slow[0]:g} s\n{words}"
                ) from None
            except BaseException:
                self.kill_command(process)
                raise
        return process.returncode, out, err

    @staticmethod
    def kill_command(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        """SIGKILL for the process group of a command in the machine; what it had printed."""
        process.send_signal(signal.SIGRTMIN)
        try:
            return process.communicate(timeout=KILL_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.communicate()

    @property
    def engine(self) -> Engine:
        return VmEngine(Path("/run/docker.sock"), self.port, self.token)

    @property
    def dockerd(self) -> Dockerd:
        return UnitDockerd(self)

    def set_clock(self) -> None:
        """The time of the machine that emulates this one."""
        self.run("date", "-s", f"@{time.time():.3f}")

    def power_off(self) -> None:
        """Pull the plug, at once."""
        self.machine.power_off()


@dataclass(frozen=True)
class VmEngine(Engine):
    """The engine of a machine, reached through the agent in it."""

    port: int
    token: Path

    def dial(self, timeout: float) -> socket.socket:
        peer = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        wish = {"token": self.token.read_text().strip(), "connect": str(self.socket)}
        peer.sendall(json.dumps(wish).encode() + b"\n")
        return peer


class UnitDockerd(Dockerd):
    """dockerd as a unit of systemd."""

    def launch(self) -> None:
        self._systemctl("reset-failed", "docker.service", "docker.socket", "containerd.service", check=False)
        self._systemctl("start", "--no-block", "docker.socket", "docker.service")

    def wait(self) -> None:
        from ..waiting import until

        until(self.host.engine.answers, f"dockerd of {self.host.name}", timeout=90, interval=0.2)

    @property
    def running(self) -> bool:
        return self._systemctl("is-active", "docker.service", check=False) == "active"

    def stop(self) -> None:
        self._systemctl("stop", "docker.socket", "docker.service")

    def kill(self) -> None:
        """SIGKILL, and it is not started again before start()."""
        self._systemctl("stop", "docker.socket")
        self._systemctl("kill", "--signal=KILL", "docker.service")
        self._systemctl("stop", "docker.service")

    def signal(self, name: str) -> None:
        self._systemctl("kill", "--kill-whom=main", f"--signal={name}", "docker.service", check=False)

    def _systemctl(self, *words: str, **options: Any) -> str:
        return self.host.run("systemctl", *words, timeout=90, **options).out.strip()
