"""P.Haul's service in a host, pairing two hosts, and ssh between them."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import LabError
from .host import Host, kill_group
from .waiting import until

PORT = 12345
PAIRING_PORT = 12346
BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
LOG_LIMIT = 64 << 20
LAX = ("--allow-privileged", "--allow-bind", "/")
LISTENING = "0A"  # the state's number in /proc/net/tcp


class Service:
    """A running `p.haul-service`, accepting connections once this object exists. Also a context manager.

    Raises LabError, with the service's log, where it does not come to accept any. `env` adds variables
    to its environment; `port` is where it is expected, for arguments that move it; `command` is what is run.
    It takes whatever a source brings, unless it is to be as `strict` as it is by itself.
    """

    def __init__(
        self,
        host: Host,
        *args: str,
        port: int = PORT,
        env: dict[str, str] | None = None,
        command: tuple[str, ...] = ("p.haul-service",),
        strict: bool = False,
    ) -> None:
        self.host = host
        self.comm = Path(command[0]).name[:15]  # what the kernel calls it
        self._log = tempfile.TemporaryFile()
        self.process: subprocess.Popen[Any] = host.popen(
            *command, *args, *(() if strict else LAX), env=env, stdout=self._log, stderr=subprocess.STDOUT
        )
        try:
            wait_listening(host, port, self.process)
        except LabError as error:
            self.kill()
            raise LabError(f"{error}\n{self.log()}") from None

    @property
    def pid(self) -> int:
        """The service's own pid as this machine sees it; 0 when it is dead."""
        return child_of(self.process)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def log(self) -> str:
        """All that it has printed."""
        return os.pread(self._log.fileno(), LOG_LIMIT, 0).decode(errors="replace")

    def stop(self) -> int:
        """Ask it to end (SIGTERM) and wait for that; its exit status. Raises LabError if it does not end."""
        if self.running:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise LabError(f"p.haul-service did not end on SIGTERM:\n{self.log()}") from None

    def kill(self) -> None:
        """SIGKILL, and what it had started in its process group stays."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
            return
        self.kill()
        error.add_note(f"Log of p.haul-service on {self.host.name}:\n{self.log()[-6000:]}")


def child_of(process: subprocess.Popen[Any]) -> int:
    """The pid, as this machine sees it, of the command that popen() started in a host; 0 when it is dead."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:
        return 0
    return int(children[0]) if children else 0


def listening(host: Host, port: int) -> bool:
    """Whether something in the host listens on the TCP port, found out without connecting to it."""
    for table in ("tcp", "tcp6"):
        for line in host.proc(f"net/{table}").splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == LISTENING and int(local.rpartition(":")[2], 16) == port:
                return True
    return False


def wait_listening(host: Host, port: int, process: subprocess.Popen[Any], *, timeout: float = START_TIMEOUT_S) -> None:
    """Wait until the port is open. Raises LabError when time is over or the process, which should open it, ends."""

    def open_or_dead() -> bool:
        return listening(host, port) or process.poll() is not None

    until(open_or_dead, f"port {port} of {host.name}", timeout=timeout, interval=0.01)
    if process.poll() is not None:
        raise LabError(f"What should listen on port {port} of {host.name} ended with {process.returncode}.")


def setup(*hosts: Host) -> None:
    """Run `p.haul-service setup` on the hosts."""
    for host in hosts:
        host.run("p.haul-service", "setup", timeout=120)


def pairing_code() -> str:
    """A fresh code, as in ABCD-EFGH-JKLM."""
    letters = [secrets.choice(BASE32) for _ in range(12)]
    return "-".join("".join(letters[start : start + 4]) for start in (0, 4, 8))


def pair(source: Host, target: Host, *, code: str | None = None, fresh: bool = True) -> None:
    """Make the source known to the target, and the other way round; fresh ones are set up first."""
    if fresh:
        setup(source, target)
    code = code or pairing_code()
    offer = target.popen("p.haul-service", "pair", "--code", code, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        wait_listening(target, PAIRING_PORT, offer)
        source.run("p.haul", "pair", target.ip, "--code", code)
        said, _ = offer.communicate(timeout=STOP_TIMEOUT_S)
    except BaseException as error:
        said, _ = kill_group(offer)
        error.add_note(f"p.haul-service pair on {target.name} said:\n{said.decode(errors='replace')}")
        raise
    if offer.returncode:
        raise LabError(f"p.haul-service pair ended with {offer.returncode}:\n{said.decode(errors='replace')}")


def allow_ssh(source: Host, target: Host) -> None:
    """Let root log in from the source to the target by ssh, without a question."""
    if source.run("test", "-e", "/root/.ssh/id_ed25519", check=False).code:
        source.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/id_ed25519")
    target.run("sh", "-c", "mkdir -p -m 700 /root/.ssh && cat >>/root/.ssh/authorized_keys", input=public_key(source))
    host_key = target.read("cat", "/etc/ssh/ssh_host_ed25519_key.pub").decode()
    source.run("sh", "-c", "cat >>/root/.ssh/known_hosts", input=f"{target.name},{target.ip} {host_key}")
    if not listening(target, 22):
        target.run("sh", "-c", "mkdir -p /run/sshd && /usr/sbin/sshd")
        until(lambda: listening(target, 22), f"sshd of {target.name}")


def public_key(host: Host) -> str:
    return host.read("cat", "/root/.ssh/id_ed25519.pub").decode()
