"""Podman's checkpoints as archives, not compressed: random bytes would not become fewer."""

from __future__ import annotations

from lab import images

from .bed import PROGRAM, Bed
from .cases import Case
from .rival_phaul import NAME
from .rivals import BIND, HAUL_S, Receiver, send

ARCHIVE = "/tmp/bench.tar"
# An overlay cannot have an overlay for its upper layer; this host's own cgroup manager is not systemd.
STORE = "/var/lib/containers"
GLOBAL = ("--cgroup-manager", "cgroupfs", "--runtime", "runc")


class Podman:
    """`podman container checkpoint --export`, a copy, `podman container restore --import`."""

    name = "podman"
    words = "podman checkpoint + copy + restore"
    copies = 5
    alone = False

    def start(self, bed: Bed, case: Case) -> None:
        for host in bed.lab.hosts:
            if f" {STORE} " not in host.proc("mounts"):
                host.run("mkdir", "-p", STORE)
                host.run("mount", "-t", "tmpfs", "-o", "size=90%", "podman", STORE)
                host.put("/tmp/image.tar", images.tar(PROGRAM).read_bytes())
                host.run("podman", *GLOBAL, "load", "-q", "-i", "/tmp/image.tar")
        command = (PROGRAM, *bed.arguments(case))
        options = ("-d", "--name", NAME, "--network", "host", *BIND)
        bed.source.run("podman", *GLOBAL, "run", *options, PROGRAM, *command)
        self.receiver = Receiver.start(bed.target, "dd", "bs=1M", f"of={ARCHIVE}", "status=none")

    def haul(self, bed: Bed) -> str:
        checkpoint = ("container", "checkpoint", "--compress", "none", "--export", ARCHIVE, NAME)
        bed.source.run("podman", *GLOBAL, *checkpoint, timeout=HAUL_S)
        send(bed.source, self.receiver, f"cat {ARCHIVE}")
        done = bed.target.run("podman", *GLOBAL, "container", "restore", "--import", ARCHIVE, timeout=HAUL_S)
        return done.out

    def clear(self, bed: Bed) -> None:
        if hasattr(self, "receiver"):
            self.receiver.close()
        for host in bed.lab.hosts:
            host.run("podman", *GLOBAL, "rm", "-f", "-t", "0", "-a", check=False)
            host.run("rm", "-f", ARCHIVE)
