"""An instance of whole machines: the same interface as lab.Lab, and capabilities that namespaces cannot have."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from .. import capabilities, waiting
from ..claims import STATE, claim, remove, sweep
from ..errors import LabError
from ..instance import check_names
from . import image, machine, snapshot, tree
from .vmhost import VmHost

NAMES = ("a", "b")  # those that the snapshot is of
PROBE = ("python3", "-IS", "-c", "pass")
BOOT_TIMEOUT_S = 400
RESUME_TIMEOUT_S = 120

slow: set[str] = set()  # this process's instances, as long as they are up


@dataclass(frozen=True)
class VmLab:
    """Machines that are up. Also a context manager that takes them down at its end."""

    instance: str
    hosts: tuple[VmHost, ...]

    paired = True

    @classmethod
    def up(cls, instance: str, *, owned: bool = True) -> VmLab:
        """Machines a and b, with dockerd up, P.Haul of the current tree set up and the two paired.

        Raises LabError where that fails or there is an instance of that name.
        """
        saved = snapshot.ready()
        with claimed(instance, owned=owned):
            lab = cls(instance, tuple(spawn(instance, saved=saved, owned=owned)))
            for host in lab.hosts:
                host.machine.resume()
            await_agents(lab.hosts, RESUME_TIMEOUT_S)
            lab.measure()
            for host in lab.hosts:
                host.set_clock()
            tree.refresh(*lab.hosts)
            lab.save()
        return lab

    def save(self) -> None:
        machines = [vars(host.machine) | {"ip": host.ip, "monitor": str(host.machine.monitor)} for host in self.hosts]
        saved = {"slowness": self.hosts[0].slow[0], "machines": machines}
        (STATE / self.instance / "lab.json").write_text(json.dumps(saved))

    @staticmethod
    def is_up(instance: str) -> bool:
        """Whether there is an instance of that name, of whole machines."""
        saved = STATE / instance / "lab.json"
        return saved.exists() and "machines" in saved.read_text()

    @classmethod
    def attach(cls, instance: str) -> VmLab:
        """The instance that some process has brought up. Raises LabError where there is none."""
        try:
            saved = json.loads((STATE / instance / "lab.json").read_text())
        except FileNotFoundError:
            raise LabError(f"No instance {instance!r} is up.") from None
        hosts = []
        for entry in saved["machines"]:
            address = entry.pop("ip")
            running = machine.Machine(**{**entry, "monitor": Path(entry["monitor"])})
            hosts.append(host_of(running, address, saved["slowness"]))
        waiting.allow(saved["slowness"])
        return cls(instance, tuple(hosts))

    @classmethod
    def boot(cls, instance: str, disks: Path) -> VmLab:
        """Machines from the bare image, their disks in that directory."""
        with claimed(instance, owned=True):
            lab = cls(instance, tuple(spawn(instance, disks=disks)))
            await_agents(lab.hosts, BOOT_TIMEOUT_S)
            lab.measure()
        return lab

    def measure(self) -> None:
        """Find out how slow these machines are, and let all waits take so much longer."""
        (host, *_) = self.hosts
        host.run(*PROBE)
        began = time.monotonic()
        host.run(*PROBE)
        taken = time.monotonic() - began
        began = time.monotonic()
        subprocess.run(PROBE, check=True)
        factor = min(6.0, max(4.0, taken / (time.monotonic() - began) / 2))
        for host in self.hosts:
            host.slow[0] = factor
        slow.add(self.instance)
        waiting.allow(factor)

    @property
    def slowness(self) -> float:
        """How many times longer everything may take than on hosts at full speed."""
        return self.hosts[0].slow[0]

    @functools.cached_property
    def capabilities(self) -> frozenset[str]:
        """What these hosts can do, in words (capabilities.py)."""
        return capabilities.of(self.hosts[0])

    def host(self, name: str) -> VmHost:
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f"The instance {self.instance!r} has no host {name!r}.")

    def cut(self, name: str) -> None:
        """Pull that host's cable."""
        self._set_link(name, up=False)

    def join(self, name: str) -> None:
        """Plug that host's cable in again."""
        self._set_link(name, up=True)

    def _set_link(self, name: str, *, up: bool) -> None:
        self.host(name).machine.set_link(up=up)

    def power_cycle(self, name: str) -> None:
        """Take that host's power away, at once, and give it back; wait until it is up again."""
        host = self.host(name)
        boot = host.read("cat", "/proc/sys/kernel/random/boot_id")
        host.machine.reset()
        await_agents((host,), BOOT_TIMEOUT_S)
        assert host.read("cat", "/proc/sys/kernel/random/boot_id") != boot
        host.set_clock()

    def down(self) -> None:
        """Remove everything that the instance is and has; at once, nothing is shut down properly."""
        remove(self.instance)
        slow.discard(self.instance)
        if not slow:
            waiting.allow(1.0)

    def __enter__(self) -> VmLab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


@contextlib.contextmanager
def claimed(instance: str, *, owned: bool) -> Iterator[None]:
    """Take the instance's name; where bringing it up fails, remove all that there is of it."""
    check_names(instance, NAMES)
    if reason := machine.missing():
        raise LabError(reason)
    sweep()
    claim(instance, owner=os.getpid() if owned else 0)
    try:
        yield
    except BaseException:
        remove(instance)
        raise


def await_agents(hosts: Sequence[VmHost], timeout: float) -> None:
    """Wait until commands can be run in the machines."""
    for host in hosts:

        def answers(host: VmHost = host) -> bool:
            with host.popen("true", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as probe:
                try:
                    return probe.wait(timeout=10) == 0
                except subprocess.TimeoutExpired:
                    probe.kill()
                    return False

        waiting.until(answers, f"machine {host.name}", timeout=timeout, interval=0.2)


def spawn(
    instance: str, *, saved: Path | None = None, disks: Path | None = None, owned: bool = True
) -> Sequence[VmHost]:
    """Start the machines, going on with saved ones or with fresh disks in a directory."""
    hosts = []
    for number, name in enumerate(NAMES, start=1):
        if saved:
            # Changes go to a file that qemu keeps without a name.
            disk = f"file={saved / name}.qcow2,format=qcow2,snapshot=on"
        else:
            assert disks is not None
            disk = f"file={snapshot.new_disk(disks / f'{name}.qcow2')},format=qcow2"
        address = f"10.79.0.{number}"
        running = machine.start(
            instance,
            name,
            address,
            STATE / instance,
            disk=disk,
            leads=number == 1,
            saved=saved / f"{name}.state" if saved else None,
            bound=owned,
        )
        hosts.append(host_of(running, address))
    return hosts


def host_of(running: machine.Machine, address: str, slowness: float = 1.0) -> VmHost:
    kept = {f"{name}:latest" for name in image.IMAGES}
    token = image.base() / "token"
    return VmHost(running.name, address, running.pid, (), kept, running, token, [slowness])
