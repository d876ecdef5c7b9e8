"""Two hosts that haul in both directions, each with a p.haul-service."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from lab import Host, Lab, TwoHosts, images, service, workloads
from lab.service import Service

HAUL_S = 300


@dataclass(frozen=True)
class Bed(TwoHosts):
    """`services` are by the hosts' names."""

    lab: Lab
    services: dict[str, Service]


@contextlib.contextmanager
def made_of(lab: Lab, *, paired: bool = False) -> Iterator[Bed]:
    """The lab's hosts, `paired` if a is known to b already. Raises LabError where a service does not end well."""
    a, b = lab.hosts
    for host in lab.hosts:
        images.load(host, "busybox")
    if not paired:
        service.pair(a, b)
    service.pair(b, a, fresh=False)
    with Service(a) as here, Service(b) as there:
        yield Bed(lab, {a.name: here, b.name: there})


def counters(host: Host, *names: str) -> None:
    for name in names:
        workloads.counter(host, name)


def complete(host: Host, name: str, beyond: int = 0) -> int:
    """The last number of a counter that goes on, beyond that one. Raises AssertionError where one is missing."""
    seen = workloads.wait_ticks(host, name, max(beyond, workloads.ticks(host, name)[-1][0]))
    workloads.check_counter(seen)
    return seen[-1][0]
