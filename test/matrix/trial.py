"""One cell tried: a container that keeps account of itself is hauled, and the fault made where that stands still."""

from __future__ import annotations

import contextlib
import subprocess
import traceback
from pathlib import Path

from faults import Halt, Rest, at_point, ended, under_way
from hauling import inspect
from lab import Done, Host, Lab, workloads
from lab.service import Service

from .cells import Cell
from .phases import SOURCE

NAME, PROGRAM, NETWORK, VOLUME = "hog", "memhog", "front", "data"
MIB, HOT_MIB = 16, 1
# A directory that both hosts have. Each copy, wherever it runs, writes its lines there: no two may write the same.
SHARED, LEDGER = "/srv/shared", "ledger"
SCRIPT = "/tmp/criu-halt"
LOOKS_OFTEN = "set=phaul.service_args:LOOK_SECONDS=0.5"


class Trial:
    """`rest` is what both hosts held before there was a container, or a service."""

    def __init__(self, lab: Lab, rest: Rest, cell: Cell) -> None:
        self.lab, self.rest, self.cell = lab, rest, cell
        self.a, self.b = lab.host("a"), lab.host("b")
        self.done = Done(0, "", "")
        self.services: list[Service] = []
        self._halt: Halt | None = None

    def host_of(self, program: str) -> Host:
        return self.a if program == SOURCE else self.b

    @property
    def service(self) -> Service:
        return self.services[-1]

    def begin(self) -> None:
        """Start the workload. Whoever would run it twice, or anew, is found out by the ledger."""
        self.a.path(f"{SHARED}/{LEDGER}").unlink(missing_ok=True)
        self.a.docker("network", "create", NETWORK)
        options = (
            "--restart",
            "unless-stopped",
            "--network",
            NETWORK,
            "-v",
            f"{VOLUME}:/data",
            "-v",
            f"{SHARED}:/shared",
        )
        self.id = workloads.memhog(self.a, NAME, *options, mib=MIB, hot_mib=HOT_MIB, also=f"/shared/{LEDGER}")
        self.policy = inspect(self.a, NAME)["HostConfig"]["RestartPolicy"]

    def carry_out(self) -> None:
        """Haul, break, and undo the fault when p.haul has ended; how it ended is `done`."""
        with contextlib.ExitStack() as stack:
            if not self.cell.fault.act:
                self._halt = stack.enter_context(Halt(self.host_of(self.cell.phase.program)))
            source, target = self._words()
            self.serve(*target)
            self.hauling = stack.enter_context(self._hauling(*source))
            if self._halt:
                self._halt.reached(self.hauling)
            with self.cell.fault.made(self):
                self.go()
                self.done = ended(self.hauling)

    def _words(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """For at_point.py, of p.haul and of the service."""
        phase, fault = self.cell.phase, self.cell.fault
        act = fault.act or (self._script() if phase.action else self._halt.word if self._halt else "")
        words = (phase.point, act)
        if phase.program == SOURCE:
            return (*fault.source, *words), fault.target
        return fault.source, (*fault.target, *words)

    def _script(self) -> str:
        """What has CRIU halt: a script more that it calls."""
        assert self._halt
        fifo = self._halt.word.removeprefix("wait=")
        lines = f"""run=cat >{SCRIPT} <<'END'
#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" != {self.cell.phase.action} ] || {{ echo here >{fifo}; head -c 1 {fifo}.go >/dev/null; }}
END
chmod +x {SCRIPT}
echo action-script {SCRIPT} >>$(echo {self.cell.phase.conf})"""
        return lines

    def serve(self, *words: str) -> None:
        """Start p.haul-service on b, once more where it has died."""
        every = (*self.cell.fault.target, LOOKS_OFTEN, *words)
        self.services.append(Service(self.b, command=at_point("p.haul-service", every)))

    def _hauling(self, *words: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        return under_way(self.a, self.b, words, (*self.cell.mode.options, *self.cell.phase.options), name=NAME)

    def go(self) -> None:
        """Let what stands still go on."""
        if self._halt:
            self._halt.go()

    def ledger(self) -> list[list[str]]:
        """The words of each line that any copy has written."""
        return workloads.words_of(self.a.path(f"{SHARED}/{LEDGER}").read_text())

    def end(self) -> None:
        """Whatever runs of it is ended, in no good order."""
        for service in self.services:
            with contextlib.suppress(OSError):
                service.kill()

    def keep_evidence(self, out: Path) -> None:
        """What everybody has said, in that directory."""
        out.mkdir(parents=True, exist_ok=True)
        said = [f"{self.cell.name}\n\n{traceback.format_exc()}\np.haul ended with {self.done.code}"]
        said += [self.done.out, self.done.err, *(f"p.haul-service:\n{service.log()}" for service in self.services)]
        (out / "said.txt").write_text("\n".join(said))
        for host in self.lab.hosts:
            with contextlib.suppress(Exception):
                look = host.run("sh", "-c", "docker ps -a; ps -eo pid,ppid,stat,wchan:20,args", check=False).out
                (out / f"{host.name}-processes.txt").write_text(look)
            with contextlib.suppress(Exception):
                places = ("/var/log/phaul", "/var/log/dockerd.log", "/var/lib/phaul/journal")
                packed = host.read("tar", "-C", "/", "--ignore-failed-read", "-czf", "-", *(at[1:] for at in places))
                (out / f"{host.name}.tar.gz").write_bytes(packed)
