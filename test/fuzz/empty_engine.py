"""An engine that has nothing and makes nothing, for as long as a target is looked at a million times."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from phaul import (
    docker_network_checks,
    docker_restore,
    docker_target,
    docker_target_checks,
    host_facts,
    net_ns,
    pages_target,
    preflight,
    service,
)
from phaul.docker_api import NoSuch
from phaul.errors import HaulFailed
from phaul.messages_pb2 import HostFacts

from . import stage

Json = dict[str, Any]
FACTS = HostFacts(hostname="here", machine="x86_64", kernel="6.18", criu="4.2", rsync="3.4", cpu="sse", host_id="1")


class EmptyEngine:
    """What Engine is asked by the target's half before anything is made, and by what undoes it."""

    names_devices = True

    def __init__(self, **_: float) -> None:
        pass

    def info(self) -> Json:
        return {
            "Runtimes": {},
            "Driver": "overlay2",
            "ServerVersion": "28.5.2",
            "Architecture": "x86_64",
            "NCPU": 2,
            "DockerRootDir": "/",
            "Plugins": {"Log": ["json-file"]},
            "SecurityOptions": ["name=seccomp,profile=builtin"],
        }

    def version(self) -> Json:
        return {"Components": [{"Name": "containerd", "Version": "2.0"}]}

    def networks(self) -> list[Json]:
        pool = {"Config": [{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]}
        return [{"Name": "bridge", "Id": "2" * 64, "Driver": "bridge", "Options": {}, "IPAM": pool}]

    def containers(self) -> list[Json]:
        return []

    images = containers

    def network(self, _name: str) -> Json:
        return self.networks()[0]

    def _no(self, *_: object, **__: object) -> Any:
        raise NoSuch("It has nothing.")

    image = volume = inspect = remove_volume = remove_network = untag = _no

    def _make(self, *_: object, **__: object) -> Any:
        raise HaulFailed("It makes nothing.", code="engine")

    tag = make_volume = make_network = create = load = _make


@contextlib.contextmanager
def in_place() -> Iterator[None]:
    """It takes the engine's place, and nothing of this host is asked by other programs."""
    instead = (
        (docker_target, "Engine", EmptyEngine),
        (docker_target_checks, "Engine", EmptyEngine),
        (docker_restore, "Engine", EmptyEngine),
        (docker_network_checks, "_of_host", lambda _: iter(())),
        (docker_network_checks.link_probe, "who_has", lambda *_: set()),
        (net_ns, "can_lock", lambda: True),
        (pages_target, "start", lambda *_, **__: None),
        (host_facts, "runc_version", lambda: (1, 3)),
        (host_facts, "gather", lambda: FACTS),
    )
    assert preflight.host_facts is service.host_facts is host_facts
    with contextlib.ExitStack() as stack:
        for owner, name, value in instead:
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(stage.home())
        yield
