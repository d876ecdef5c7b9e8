"""One emulated machine: its qemu process and the monitor that steers it."""

from __future__ import annotations

import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from .. import spawning
from ..errors import LabError
from ..waiting import until
from . import image

QEMU = "qemu-system-x86_64"
MEMORY_MIB = 2048
PROMPT = b"(qemu) "
MONITOR_TIMEOUT_S = 60
MIGRATE_TIMEOUT_S = 240
START = 'echo ready; exec "$0" "$@" >/dev/null'
KERNEL = "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet mitigations=off random.trust_cpu=on"


def missing() -> str:
    """Why there can be no virtual machines here; "" where there can."""
    wanted = (QEMU, "qemu-img", "mke2fs", "xz", "zstd")
    lacking = [program for program in wanted if not shutil.which(program)]
    return f"no {', '.join(lacking)} on this machine: no virtual machines" if lacking else ""


@dataclass(frozen=True)
class Machine:
    """A running qemu; `port` of 127.0.0.1 leads to the agent in it."""

    name: str
    pid: int
    monitor: Path
    port: int

    def tell(self, command: str) -> str:
        """Give the monitor a command; what it answers. Raises LabError where it does not."""
        return tell(self.monitor, command)

    def set_link(self, *, up: bool) -> None:
        """Plug the cable to the other machines in, or pull it."""
        self.tell(f"set_link cable {'on' if up else 'off'}")

    def reset(self) -> None:
        """Take the power away and give it back: the machine boots with what was on its disk."""
        self.tell("system_reset")

    def power_off(self) -> None:
        """Pull the plug. Nothing in the machine is told."""
        if Path(f"/proc/{self.pid}").exists():
            try:
                self.tell("quit")
            except LabError:
                pass  # it may be gone before it has answered
        until(lambda: gone(self.pid), f"the end of machine {self.name}", interval=0.05)

    def save(self, state: Path) -> None:
        """Write what the machine is doing to a file, and end it: resume() goes on from there."""
        self.tell("stop")
        self.tell("migrate_set_parameter max-bandwidth 100G")
        self.tell(f'migrate -d "exec:cat >{state}"')
        self._await_migration("Migration status: completed", "info migrate")
        self.power_off()

    def resume(self) -> None:
        """Wait until what was saved is loaded, and go on."""
        self._await_migration("paused", "info status")
        self.tell("cont")

    def _await_migration(self, words: str, question: str) -> None:
        def over() -> bool:
            answer = self.tell(question)
            if "failed" in answer:
                raise LabError(f"The state of machine {self.name} cannot be moved: {answer}")
            return words in answer and "inmigrate" not in answer

        until(over, f"the state of machine {self.name}", timeout=MIGRATE_TIMEOUT_S, interval=0.05)


def start(
    instance: str,
    name: str,
    address: str,
    state: Path,
    *,
    disk: str,
    leads: bool,
    saved: Path | None = None,
    bound: bool = True,
) -> Machine:
    """Start a machine with that disk (as qemu's -drive has it), or go on with a saved one.

    `leads`: it is the one that the other connects its cable to. A bound one dies with this process.
    """
    monitor = state / f"{name}.monitor"
    cable = f"stream,id=cable,server={'on' if leads else 'off'},addr.type=unix,addr.path={state}/cable"
    argv = [
        *(["setpriv", "--pdeathsig", "KILL"] if bound else []),
        *(QEMU, "-name", name, "-netdev", cable, "-netdev", "user,id=lab,restrict=on"),
        *("-drive", f"{disk},if=none,id=disk,cache=unsafe,discard=unmap"),
        *hardware(image.base(), name, address),
        *("-serial", f"file:{state}/{name}.console", "-monitor", f"unix:{monitor},server=on,wait=off"),
        *(["-incoming", f"exec:cat {saved}"] if saved else []),
    ]
    log = state / f"{name}.log"
    process = spawning.spawn(f"{instance}.{name}", ["sh", "-c", START, *argv], log)

    def answers_or_ended() -> bool:
        return monitor.exists() or process.poll() is not None

    until(answers_or_ended, f"the monitor of machine {name}", timeout=MONITOR_TIMEOUT_S)
    if process.poll() is not None:
        raise LabError(f"qemu ended with {process.returncode}: {log.read_text(errors='replace').strip()}")
    return Machine(name, process.pid, monitor, forward(monitor))


def hardware(base: Path, name: str, address: str) -> list[str]:
    """What a saved machine must find again when it goes on."""
    number = int(address.rpartition(".")[2])
    return [
        *("-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512"),
        *("-cpu", "max,la57=off", "-smp", "1", "-m", str(MEMORY_MIB), "-display", "none"),
        *("-kernel", f"{base}/vmlinux", "-initrd", f"{base}/initrd"),
        *("-append", f"{KERNEL} lab.name={name} lab.ip={address}"),
        *("-device", "virtio-blk-pci,drive=disk"),
        *("-device", f"virtio-net-pci,netdev=cable,mac=52:54:00:00:00:{number:02x}"),
        *("-device", f"virtio-net-pci,netdev=lab,mac=52:54:00:00:01:{number:02x}"),
        *("-device", "virtio-rng-pci"),
    ]


def forward(monitor: Path) -> int:
    """Let a free port of 127.0.0.1 lead to the agent; the port."""
    for _ in range(20):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        answer = tell(monitor, f"hostfwd_add lab tcp:127.0.0.1:{port}-:{image.AGENT_PORT}")
        if not answer:
            return port
    raise LabError(f"No port can be forwarded: {answer}")


def tell(monitor: Path, command: str) -> str:
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(MONITOR_TIMEOUT_S)
            peer.connect(str(monitor))
            prompt(peer)
            peer.sendall(command.encode() + b"\n")
            words = prompt(peer).decode(errors="replace")
    except OSError as error:
        raise LabError(f"The monitor {monitor} does not answer: {error}") from None
    # The monitor echoes the command, letter by letter with control characters, on the first line.
    return words.partition("\n")[2].replace("\r", "").removesuffix(PROMPT.decode()).strip()


def prompt(peer: socket.socket) -> bytes:
    read = b""
    while not read.endswith(PROMPT):
        data = peer.recv(4096)
        if not data:
            raise ConnectionResetError("it left")
        read += data
    return read


def gone(pid: int) -> bool:
    spawning.reap()
    return not Path(f"/proc/{pid}").exists()
