"""The one place that runs external commands."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phaul.errors import HaulFailed, Refused

LOG = logging.getLogger("phaul.run")


@dataclass(frozen=True)
class Done:
    """How a command ended: exit status (negative: killed by that signal) and what it printed."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """The last line that the command said on stderr, or else on stdout."""
        lines = [line for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"no words, exit status {self.code}"


def tool(name: str) -> str:
    """The full path of a command. Raises Refused (tool-missing) with the package's usual name."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin")
    if not found:
        raise Refused(f"The command {name!r} is not on this host: install the package {name}.", code="tool-missing")
    return found


def start(
    argv: Sequence[str | Path],
    *,
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | None = subprocess.PIPE,
    stderr: int | None = subprocess.PIPE,
    env: dict[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
) -> subprocess.Popen[bytes]:
    """Start a command in its own process group, so that a terminal's Ctrl-C does not reach it."""
    words = [tool(str(argv[0])), *(str(word) for word in argv[1:])]
    LOG.debug("run: %s", " ".join(words))
    merged = {**os.environ, **env} if env else None
    return subprocess.Popen(
        words, stdin=stdin, stdout=stdout, stderr=stderr, env=merged, pass_fds=pass_fds, process_group=0
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the command and what it started, and reap it."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()
    process.wait()


def ended(process: subprocess.Popen[bytes], *, timeout: float) -> Done:
    """How a started command ended. Raises HaulFailed (tool-timeout) where it does not, so many seconds long."""
    words = tuple(str(word) for word in process.args) if isinstance(process.args, list) else ()
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise HaulFailed(f"{words[0]} did not end within {timeout:g} s.", code="tool-timeout") from None
    return Done(words, process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float = 60,
    check: bool = True,
    input: bytes | None = None,
    env: dict[str, str] | None = None,
) -> Done:
    """Run a command to its end, at most `timeout` seconds.

    Raises Refused where the command is missing, HaulFailed (tool-failed) where it exits non-zero
    and `check` is set, HaulFailed (tool-timeout) where the time is over: it is killed then.
    """
    process = start(argv, stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL, env=env)
    try:
        out, err = process.communicate(input, timeout)
    except subprocess.TimeoutExpired:
        kill(process)
        raise HaulFailed(f"{argv[0]} did not end within {timeout:g} s.", code="tool-timeout") from None
    except BaseException:
        kill(process)
        raise
    done = Done(tuple(map(str, argv)), process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
    if check and done.code:
        raise HaulFailed(f"{argv[0]} failed: {done.last_words}", code="tool-failed", detail=done.err)
    return done
