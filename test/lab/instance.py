"""An instance of the lab: some hosts on one switch, brought up and taken down together."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from . import capabilities, cgroups, spawning, switch
from .claims import STATE, claim, remove, sweep
from .errors import LabError
from .host import Host

PIPE_MAX = Path("/proc/sys/fs/pipe-max-size")
# CRIU's lazy dumps want pipes of 8 MiB, which without CAP_SYS_RESOURCE are had only below this limit.
PIPE_BYTES = 16 << 20


@dataclass(frozen=True)
class Lab:
    """Hosts that are up. Also a context manager that takes them down at its end."""

    instance: str
    switch: int
    hosts: tuple[Host, ...]

    # Whether P.Haul is set up on them, each knowing the other, from the beginning.
    paired: ClassVar[bool] = False
    # How many times longer everything may take than on hosts at full speed.
    slowness: ClassVar[float] = 1.0

    @classmethod
    def up(
        cls,
        instance: str,
        hosts: Sequence[str] = ("a", "b"),
        *,
        docker: bool = True,
        owned: bool = True,
        packages: Sequence[str] = (),
    ) -> Lab:
        """Bring an instance up. Raises LabError if that fails or there is one of that name.

        An owned one belongs to this process: once that is dead, others may remove the instance.
        `packages` are Debian's that the hosts have besides those that all have.
        """
        check_names(instance, hosts)
        sweep()
        claim(instance, owner=os.getpid() if owned else 0)
        try:
            lab = cls._spawn(instance, hosts, packages)
            if docker:
                lab.start_docker()
        except BaseException:
            remove(instance)
            raise
        return lab

    @classmethod
    def _spawn(cls, instance: str, names: Sequence[str], packages: Sequence[str]) -> Lab:
        if int(PIPE_MAX.read_text()) < PIPE_BYTES:
            PIPE_MAX.write_text(str(PIPE_BYTES))
        hub = spawning.switch(instance, STATE / instance)
        switch.start(hub)
        hosts = []
        for number, name in enumerate(names, start=1):
            pid = spawning.host(instance, name, STATE / instance, packages)
            address = f"{switch.subnet(instance)}.{number}"
            switch.plug(hub, pid, name, address)
            hosts.append(Host(name=name, ip=address, pid=pid, cgroups=cgroups.entrances(f"{instance}.{name}")))
        lab = cls(instance, hub, tuple(hosts))
        lab._name_hosts()
        lab._save()
        return lab

    def _name_hosts(self) -> None:
        lines = ["127.0.0.1 localhost", *(f"{host.ip} {host.name}" for host in self.hosts)]
        for host in self.hosts:
            host.path("/etc/hosts").write_text("\n".join(lines) + "\n")
            host.dockerd.configure()

    def _save(self) -> None:
        hosts = [{"name": host.name, "ip": host.ip, "pid": host.pid} for host in self.hosts]
        (STATE / self.instance / "lab.json").write_text(json.dumps({"switch": self.switch, "hosts": hosts}))

    @classmethod
    def attach(cls, instance: str) -> Lab:
        """The instance that some process has brought up. Raises LabError where there is none."""
        try:
            saved = json.loads((STATE / instance / "lab.json").read_text())
        except FileNotFoundError:
            raise LabError(f"No instance {instance!r} is up.") from None
        hosts = [
            Host(
                name=entry["name"],
                ip=entry["ip"],
                pid=entry["pid"],
                cgroups=cgroups.entrances(f"{instance}.{entry['name']}"),
            )
            for entry in saved["hosts"]
        ]
        lab = cls(instance, saved["switch"], tuple(hosts))
        if not all(Path(f"/proc/{pid}/root/bin").exists() for pid in (lab.switch, *(host.pid for host in hosts))):
            raise LabError(f"The instance {instance!r} is broken: take it down.")
        return lab

    def start_docker(self) -> None:
        """Start every host's dockerd, all at once."""
        for host in self.hosts:
            host.dockerd.launch()
        for host in self.hosts:
            host.dockerd.wait()

    @functools.cached_property
    def capabilities(self) -> frozenset[str]:
        """What these hosts can do, in words (capabilities.py)."""
        return capabilities.of(self.hosts[0])

    def host(self, name: str) -> Host:
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f"The instance {self.instance!r} has no host {name!r}.")

    def cut(self, name: str) -> None:
        """Pull that host's cable."""
        switch.set_link(self.switch, self.host(name).name, up=False)

    def join(self, name: str) -> None:
        """Plug that host's cable in again."""
        switch.set_link(self.switch, self.host(name).name, up=True)

    def down(self) -> None:
        """Remove everything that the instance is and has; at once, nothing is shut down properly."""
        remove(self.instance)

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


def check_names(instance: str, hosts: Sequence[str]) -> None:
    for name in (instance, *hosts):
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
            raise LabError(f"{name!r} is no name for an instance or a host.")
    if spawning.SWITCH in hosts or any(len(name) > 15 for name in hosts):
        raise LabError("A host's name is at most 15 letters long, and not 'switch'.")


class TwoHosts:
    """What takes place on the hosts a and b of its lab."""

    lab: Lab

    @property
    def a(self) -> Host:
        return self.lab.host("a")

    @property
    def b(self) -> Host:
        return self.lab.host("b")
