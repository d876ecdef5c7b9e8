"""One host of the lab, and running commands in it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

from . import tools
from .dockerd import Dockerd
from .engine import Engine
from .errors import CommandFailed, CommandTimedOut

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
    "PYTHONPYCACHEPREFIX": "/var/cache/pycache",
}


@dataclass(frozen=True)
class Done:
    """How a command in a host ended: its exit status (negative: killed by that signal) and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Host:
    """A running host. `pid` is its first process as this machine sees it; `cgroups` is where its processes live."""

    name: str
    ip: str
    pid: int
    cgroups: tuple[Path, ...]
    kept_images: set[str] = field(default_factory=set, compare=False, repr=False)

    # Whether no other machine can look into it: what looks at its files runs in the host itself then.
    far: ClassVar[bool] = False
    # Which cgroups below `cgroups` are containers' and P.Haul's.
    cgroup_pattern: ClassVar[str] = "*"

    def path(self, inside: str) -> Path:
        """That file of the host, as this machine can open it."""
        return Path(f"/proc/{self.pid}/root/{inside.lstrip('/')}")

    def proc(self, name: str) -> str:
        """A file below /proc of the host's first process."""
        return Path(f"/proc/{self.pid}/{name}").read_text()

    def ask(self, what: str, **facts: Any) -> Any:
        """Run one of the lab's own functions in a far host (inside.py): what it returns, as JSON has it."""
        raise NotImplementedError

    def argv(self, *argv: str | Path) -> list[str]:
        """The machine's command line that runs the command in the host."""
        return [str(tools.enter()), str(self.pid), *map(str, self.cgroups), "--", *map(str, argv)]

    def popen(
        self,
        *argv: str | Path,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        **options: Any,
    ) -> subprocess.Popen[Any]:
        """Start a command in the host. Signals sent to the result reach it, and it dies with the result."""
        return subprocess.Popen(
            self.argv(*argv), env={**ENVIRONMENT, **(env or {})}, stdin=stdin, start_new_session=True, **options
        )

    def run(
        self,
        *argv: str | Path,
        timeout: float = 60,
        check: bool = True,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a command in the host to its end.

        Raises CommandFailed if it ends with another status than 0 and `check` is set, CommandTimedOut
        if it takes longer than `timeout` seconds: it and its process group are killed then.
        """
        code, out, err = self._run(argv, timeout=timeout, input=None if input is None else input.encode(), env=env)
        done = Done(code, out.decode(errors="replace"), err.decode(errors="replace"))
        if check and code:
            raise CommandFailed(f"{self.name}: {said(argv)}\nended with {code}\n{done.out}{done.err}")
        return done

    def read(self, *argv: str | Path, timeout: float = 60) -> bytes:
        """What a command in the host prints, as bytes. Raises as run() does."""
        code, out, err = self._run(argv, timeout=timeout)
        if code:
            raise CommandFailed(f"{self.name}: {said(argv)}\nended with {code}\n{err.decode(errors='replace')}")
        return out

    def _run(
        self,
        argv: tuple[str | Path, ...],
        *,
        timeout: float,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes, bytes]:
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        with self.popen(*argv, env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                out, err = process.communicate(input, timeout)
            except subprocess.TimeoutExpired:
                out, err = kill_group(process)
                words = (out + err).decode(errors="replace")
                raise CommandTimedOut(f"{self.name}: {said(argv)}\ntook longer than {timeout:g} s\n{words}") from None
            except BaseException:
                kill_group(process)
                raise
        return process.returncode, out, err

    def put(self, path: str | Path, content: bytes, *, timeout: float = 60) -> None:
        """Write a file in the host, with the directories that it is in."""
        script = 'mkdir -p "$(dirname "$0")" && cat >"$0"'
        code, _, err = self._run(("sh", "-c", script, path), timeout=timeout, input=content)
        if code:
            raise CommandFailed(f"{self.name}: {path} cannot be written: {err.decode(errors='replace')}")

    def docker(self, *argv: str | Path, **options: Any) -> str:
        """What `docker ARGV` prints, stripped. Options and errors are those of run()."""
        return self.run("docker", *argv, **options).out.strip()

    @property
    def engine(self) -> Engine:
        """The docker engine's API."""
        return Engine(self.path("/run/docker.sock"))

    @property
    def dockerd(self) -> Dockerd:
        return Dockerd(self)

    def start_dockerd(self) -> None:
        """Start dockerd, and wait until it answers."""
        self.dockerd.start()

    def stop_dockerd(self) -> None:
        """Ask dockerd to end, and wait until it has."""
        self.dockerd.stop()

    def kill_dockerd(self) -> None:
        """SIGKILL for dockerd (its containerd dies with it); containers and their shims go on."""
        self.dockerd.kill()


def said(argv: tuple[str | Path, ...]) -> str:
    return " ".join(map(str, argv))


def kill_group(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Kill the command and what it started in its process group. Returns what it had printed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.communicate(timeout=5)
    except subprocess.TimeoutExpired as held:
        # Somebody who left the group still holds the pipes: what he prints is nobody's business.
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()
        return held.stdout or b"", held.stderr or b""
