"""The engine's own checkpoints, copied by hand, on the host's network: so alone can engine 28 restore them."""

from __future__ import annotations

from lab import Host

from .bed import PROGRAM, Bed
from .cases import Case
from .rival_phaul import NAME, run_container
from .rivals import BIND, HAUL_S, TAR, Receiver, send_directories

OPTIONS = ("--network", "host", *BIND)
CHECKPOINT = "moved"


class Docker:
    """`docker checkpoint create`, tar, `docker start --checkpoint`."""

    name = "docker"
    words = "docker checkpoint + copy + start"
    copies = 6
    alone = False

    def start(self, bed: Bed, case: Case) -> None:
        source = run_container(bed, case, *OPTIONS)
        command = (PROGRAM, *bed.arguments(case))
        target = bed.target.docker("create", "--name", NAME, *OPTIONS, PROGRAM, *command)
        self.directories = [checkpoints(source), upper(bed.source)]
        places = [checkpoints(target), upper(bed.target)]
        bed.target.run("mkdir", "-p", places[0])
        self.receivers = [
            Receiver.start(bed.target, *TAR, "-xf", "-", "-C", place, port=9000 + number)
            for number, place in enumerate(places)
        ]

    def haul(self, bed: Bed) -> str:
        bed.source.docker("checkpoint", "create", NAME, CHECKPOINT, timeout=HAUL_S)
        for directory, receiver in zip(self.directories, self.receivers, strict=True):
            send_directories(bed.source, receiver, directory)
        return bed.target.docker("start", "--checkpoint", CHECKPOINT, NAME, timeout=HAUL_S)

    def clear(self, _: Bed) -> None:
        for receiver in getattr(self, "receivers", ()):
            receiver.close()


def checkpoints(container: str) -> str:
    return f"/var/lib/docker/containers/{container}/checkpoints"


def upper(host: Host) -> str:
    return host.docker("inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", NAME)
