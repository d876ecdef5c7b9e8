"""P.Haul, in each mode that it has."""

from __future__ import annotations

import re

from lab import Host, service

from .bed import PROGRAM, VOLUME, Bed
from .cases import Case
from .rivals import BIND, HAUL_S

NAME = "bench"
MODES = ("auto", "precopy", "postcopy", "stopcopy")


class PHaul:
    """`p.haul docker`, a service waiting at the target."""

    alone = False

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.name = f"phaul-{mode}" if mode else "phaul"
        # Its modes stream; without them it writes images on both hosts.
        self.copies = 2 if mode else 4
        self.words = f"p.haul --mode {mode}" if mode else "p.haul"

    def start(self, bed: Bed, case: Case) -> None:
        self.service = service.Service(bed.target)
        run_container(bed, case, *BIND)

    def haul(self, bed: Bed) -> str:
        mode = ("--mode", self.mode) if self.mode else ()
        done = bed.source.run("p.haul", "docker", *mode, NAME, bed.target.ip, timeout=HAUL_S)
        return done.out

    def clear(self, _: Bed) -> None:
        if hasattr(self, "service"):
            self.service.kill()


def run_container(bed: Bed, case: Case, *options: str) -> str:
    """Start the workload as a container of the source's engine; its id."""
    volume = ("-v", f"{VOLUME}:/data") if case.volume_mib else ()
    command = (PROGRAM, *bed.arguments(case))
    container = bed.source.docker("run", "-d", "--name", NAME, *options, *volume, PROGRAM, *command)
    if case.files:
        bed.fill(bed.source.path(f"/proc/{inner_pid(bed.source)}/root"), case)
    return container


def inner_pid(host: Host) -> int:
    """The container's first process as its host sees it."""
    return int(host.docker("inspect", "-f", "{{.State.Pid}}", NAME))


def modes(host: Host) -> list[str]:
    """Those that `p.haul docker --help` tells of; [""] where it has none."""
    said = host.run("p.haul", "docker", "--help").out
    named = [mode for mode in MODES if re.search(rf"\b{mode}\b", said)]
    return named if "--mode" in said and named else [""]
