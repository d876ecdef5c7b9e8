"""Two hosts on which cells are tried, one after the other; new ones after a cell that did not hold."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bench import machine
from faults import Rest
from hauling import settled
from lab import Lab, dockerd, images, service

from .cells import Cell
from .injections import WORK
from .results import Record
from .trial import PROGRAM, Trial
from .verdict import reach

# So that an engine's end is not that of its containers; see docs.docker.com, "Live restore".
SETTINGS = {"storage-driver": "overlay2", "live-restore": True}
WORK_MIB = 64


class Ground:
    """`name` is the lab's; `out` is where the evidence of what does not hold goes."""

    def __init__(self, name: str, out: Path) -> None:
        self._name, self._out = name, out
        self._stack = contextlib.ExitStack()
        self._lab: Lab | None = None
        self.machine: dict[str, str] = {}

    def __enter__(self) -> Ground:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def try_(self, cell: Cell) -> Record:
        """What became of the container in that cell. Raises LabError where there are no hosts to be had."""
        if not self._lab:
            self._lab, self._rest = self._stack.enter_context(hosts(self._name))
            self.machine = self.machine or machine.describe(self._lab.hosts[0])
        began = time.monotonic()
        trial = Trial(self._lab, self._rest, cell)
        held = False
        try:
            trial.begin()
            trial.carry_out()
            found = reach(trial)
            self._sweep()
            held = True
            return Record.of(cell, trial.done, time.monotonic() - began, outcome=found.outcome, command=found.command)
        except Exception as error:
            trial.keep_evidence(self._where(cell))
            return Record.of(cell, trial.done, time.monotonic() - began, why=f"{type(error).__name__}: {error}")
        finally:
            trial.end()
            if not held:
                self._stack.close()
                self._lab = None

    def evidence(self, cell: Cell) -> str:
        """What was said in a cell that did not hold."""
        said = self._where(cell) / "said.txt"
        return said.read_text() if said.exists() else ""

    def _where(self, cell: Cell) -> Path:
        return self._out / cell.name.replace(" / ", "--").replace(" ", "-")

    def _sweep(self) -> None:
        """Journals and logs, so that each cell has its own."""
        assert self._lab
        for host in self._lab.hosts:
            host.run("sh", "-c", "rm -rf /var/lib/phaul/journal/* /var/log/phaul/*")


@contextlib.contextmanager
def hosts(name: str) -> Iterator[tuple[Lab, Rest]]:
    """Two hosts, paired, with the workload's image, and what they hold then."""
    with Lab.up(f"{name}-{os.getpid()}", docker=False) as lab:
        for host in lab.hosts:
            host.path(dockerd.CONFIG).write_text(json.dumps(SETTINGS))
        lab.start_docker()
        for host in lab.hosts:
            images.load(host, PROGRAM)
        service.pair(*lab.hosts)
        # Its own file system, so that it can be full alone.
        lab.host("b").run("sh", "-ec", f"mkdir -p {WORK}; mount -t tmpfs -o size={WORK_MIB}m tmpfs {WORK}")
        yield lab, {host.name: settled(host) for host in lab.hosts}
