"""What the tests of rollback and hand-over share: a counter to move, programs that fail on demand, verdicts."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from hauling import HAUL_TIMEOUT_S, inspect, left, refused, settled, state, wait_for
from lab import Done, Host, Lab, TwoHosts, residue, workloads
from lab.clean import our_processes
from lab.host import kill_group
from lab.service import Service, child_of

NAME = "web"
NETWORK, VOLUME = "front", "data"
LAUNCHER = ("/usr/bin/python3", "/opt/phaul/test/at_point.py")
JOURNALS = "/var/lib/phaul/journal"
SETTLED = ("done", "undone", "lost")
STALE_SOCKET = "+ files: /run/phaul/service.sock"  # a killed service's; the next one replaces it
CLEAN_S = 60
# A service that does at once what it would do after some seconds.
QUICK = ("set=phaul.service:GRACE_SECONDS=0.1", "set=phaul.service_args:LOOK_SECONDS=0.2")
# A service that gives nothing up by itself while a test lasts.
PATIENT = ("set=phaul.service:GRACE_SECONDS=600",)

Rest = dict[str, residue.Residue]


def at_point(program: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """The command that runs the program, with what it is to do where, as at_point.py takes it."""
    return (*LAUNCHER, *words, "--", program) if words else (program,)


class Halt:
    """A place for a program to wait at: `word` is the action for at_point.py. Also a context manager."""

    def __init__(self, host: Host) -> None:
        inside = f"/tmp/halt-{secrets.token_hex(4)}"
        self.word, self.gate = f"wait={inside}", f"{inside}.go"
        self._paths = [host.path(inside), host.path(self.gate)]
        for path in self._paths:
            os.mkfifo(path)
        # Both ends, so that nobody sees an end before there was a beginning.
        self._here, self._go = (os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in self._paths)

    def reached(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the program is there. Raises AssertionError where it ends instead, LabError when time is over."""

        def there() -> bool:
            with contextlib.suppress(BlockingIOError):
                return bool(os.read(self._here, 16))
            assert process.poll() is None, f"it ended with {process.returncode}, and never came to the point"
            return False

        wait_for(there, "the program's coming to the point")

    def go(self) -> None:
        """Let it go on."""
        os.write(self._go, b".")

    def __enter__(self) -> Halt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go()
        os.close(self._here)
        os.close(self._go)
        for path in self._paths:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def under_way(
    a: Host, b: Host, words: tuple[str, ...], options: tuple[str, ...], *, name: str = NAME
) -> Iterator[subprocess.Popen[bytes]]:
    """A p.haul of a's container under way to b, told what to do where; killed at the end if it still runs."""
    command = (*at_point("p.haul", words), "docker", name, b.ip, *options)
    process = a.popen(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            kill_group(process)


@dataclass(frozen=True)
class Scene(TwoHosts):
    """The container counts on host a; b is where it is to go. `rest` is what both held before there was a service."""

    lab: Lab
    rest: Rest
    id: str
    policy: dict[str, object]

    def serve(self, *words: str) -> Service:
        """p.haul-service on b, told what to do where."""
        return Service(self.b, command=at_point("p.haul-service", words))

    def begun(
        self, *words: str, name: str = NAME, more: tuple[str, ...] = ()
    ) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        """A p.haul of the container under way, told what to do where; killed at the end if it still runs."""
        return under_way(self.a, self.b, words, more, name=name)

    def haul(self, *words: str) -> Done:
        """A whole p.haul of the container, told what to do where."""
        with self.begun(*words) as process:
            return ended(process)

    def stays(self, service: Service | None = None) -> None:
        """It runs on a as if nothing had happened; nothing of the haul is left, except the service if it still runs."""
        wait_for(lambda: runs(self.a, NAME) and all_settled(self.a), "the container's running on a", CLEAN_S)
        found = inspect(self.a, NAME)
        assert found["Id"] == self.id
        assert found["HostConfig"]["RestartPolicy"] == self.policy
        goes_on(self.a, NAME)
        self.nothing_left(self.a)
        self.nothing_left(self.b, *of_service(service))

    def nothing_left(self, host: Host, *but: str) -> None:
        """The host is as it was but for these lines, and every haul that it knows of is settled."""
        wait_for(lambda: all_settled(host), f"the settling of the hauls of {host.name}", CLEAN_S)
        changes = left(host, self.rest[host.name], timeout=CLEAN_S, but=(STALE_SOCKET, *but))
        assert not changes, f"left on {host.name}: {changes}"

    def moved(self) -> None:
        """It runs on b, and there alone; its numbers are complete, and those of a are their beginning."""
        wait_for(
            lambda: runs(self.b, NAME) and state(self.a, NAME) == "exited", "the container's running on b", CLEAN_S
        )
        for host in self.lab.hosts:
            wait_for(lambda host=host: all_settled(host), f"the settling of the hauls of {host.name}", CLEAN_S)
        assert inspect(self.a, NAME)["HostConfig"]["RestartPolicy"]["Name"] == "no"
        assert inspect(self.b, NAME)["HostConfig"]["RestartPolicy"] == self.policy
        goes_on(self.b, NAME)
        before, after = workloads.ticks(self.a, NAME), workloads.ticks(self.b, NAME)
        assert after[: len(before)] == before, "the copy on a has gone on by itself"

    def moves_now(self) -> None:
        """A plain haul of the container, with the service that there is, works."""
        done = self.haul()
        assert done.code == 0, done
        self.moved()

    def stays_and_moves(self) -> None:
        """As `stays`, now that no service runs on b; and the next haul works."""
        self.stays()
        with self.serve():
            self.moves_now()


def make_scene(lab: Lab) -> Scene:
    """A counter that uses what has to be undone: restart policy, network, volume."""
    source = lab.host("a")
    source.docker("network", "create", NETWORK)
    container = workloads.counter(
        source, NAME, "--restart", "unless-stopped", "--network", NETWORK, "-v", f"{VOLUME}:/data"
    )
    rest = {host.name: settled(host) for host in lab.hosts}
    return Scene(lab, rest, container, inspect(source, NAME)["HostConfig"]["RestartPolicy"])


def of_service(service: Service | None) -> tuple[str, ...]:
    """What a running service adds to its host: itself and its guard."""
    if service is None or not service.running:
        return ()
    return (f"+ processes: {service.comm}", "+ processes: python3")


def ended(process: subprocess.Popen[bytes]) -> Done:
    """How a command ended, once it has. Raises TimeoutExpired."""
    out, err = process.communicate(timeout=HAUL_TIMEOUT_S)
    return Done(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def runs(host: Host, name: str) -> bool:
    """Whether the container is there and not frozen."""
    return state(host, name) == "running"


def goes_on(host: Host, name: str) -> None:
    """The counter writes more lines, and none of all was left out or came twice."""
    seen = workloads.ticks(host, name)
    workloads.check_counter(workloads.wait_ticks(host, name, seen[-1][0] + 5))


def failed(done: Done, *codes: str, status: int = 7, lab: Lab | None = None) -> str:
    """The sentence that a haul failed with. Raises AssertionError unless code, status and the logs' place are told."""
    said = f"status {done.code}\n{done.out}{done.err}"
    assert "Traceback" not in said, said
    assert done.code == status, said
    lines = [line.removeprefix("p.haul: ") for line in done.err.splitlines() if line.startswith("p.haul: ")]
    assert lines and lines[-1] in [f"[{code}] exit status {status}" for code in codes], said
    logs = re.search(r"^Logs: (/\S+) on both hosts; p\.haul bundle packs them\.$", "\n".join(lines), re.MULTILINE)
    assert logs, said
    for host in lab.hosts if lab else ():
        assert host.run("ls", logs[1]).out, f"{host.name} has no logs in {logs[1]}"
    return lines[0]


def in_doubt(done: Done) -> str:
    """The sentence of a haul that ended in doubt."""
    return refused(done, "in-doubt", 8)


def journals(host: Host) -> dict[str, str]:
    """The state that each of the host's hauls has come to, by its journal's name; a torn line says nothing."""
    found = {}
    lines = host.run("sh", "-c", f"cd {JOURNALS} && grep -H ^ * /dev/null", check=False).out.splitlines()
    for name, group in itertools.groupby(lines, lambda line: line.partition(":")[0]):
        records = [json.loads(text) for line in group if (text := line.partition(":")[2]).endswith("}")]
        if records:
            found[name] = ["begun", *(record["state"] for record in records if "state" in record)][-1]
    return found


def all_settled(host: Host) -> bool:
    return all(reached in SETTLED for reached in journals(host).values())


def state_of_haul(host: Host) -> str:
    """The state of the newest haul that the host knows of."""
    return list(journals(host).values())[-1]


def kill_inner(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for what popen() started in a host, and wait for its end."""
    os.kill(child_of(process), signal.SIGKILL)
    process.wait(CLEAN_S)


def kill_guards(host: Host) -> None:
    """SIGKILL for every guard in the host."""

    def guards() -> list[str]:
        return [pid for pid, _ in our_processes(host) if is_guard(host.path(f"/proc/{pid}/cmdline"))]

    pids = guards()
    assert pids, f"there is no guard on {host.name}"
    host.run("kill", "-9", *pids)
    wait_for(lambda: not guards(), f"the end of the guards of {host.name}")


def is_guard(cmdline: Path) -> bool:
    with contextlib.suppress(OSError):
        return b"phaul.guard" in cmdline.read_bytes()
    return False


def stands_still(read: Callable[[], bytes], seconds: float) -> bool:
    """Whether what is read stays the same all the time that it is looked at."""
    first, until = read(), time.monotonic() + seconds
    while time.monotonic() < until:
        if read() != first:
            return False
    return True


@contextlib.contextmanager
def little_room(host: Host, mib: int, place: str = "/var/lib/docker") -> Iterator[None]:
    """The memory file system that the place is in has only so much left.

    In the lab that of the engine's directory holds all that the host keeps, P.Haul's journals and logs too.
    """
    usage = os.statvfs(host.path(place))
    before = usage.f_blocks * usage.f_frsize

    def limited() -> bool:
        """Not where somebody has written in between; a size of 0 would be no limit."""
        now = os.statvfs(host.path(place))
        size = max((now.f_blocks - now.f_bfree) * now.f_frsize + (mib << 20), now.f_frsize)
        return host.run("mount", "-o", f"remount,size={size}", place, check=False).code == 0

    wait_for(limited, f"less room in {place}")
    try:
        yield
    finally:
        host.run("mount", "-o", f"remount,size={before}", place)
