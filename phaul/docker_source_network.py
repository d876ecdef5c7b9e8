"""A container's network at the source: what its sockets need, what the target is told, holding its traffic back."""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import Any

from phaul import docker_checks, docker_config, docker_networks, freezer, net_ns, sockets_seen
from phaul.docker_api import Engine
from phaul.docker_networks import NFT_SENTENCE, Endpoint, Wish
from phaul.errors import Blocker, HaulFailed
from phaul.journal import Journal
from phaul.overview import Connection
from phaul.sockets_seen import Socket

Json = dict[str, Any]


class SourceNetwork:
    """Of one running container, as the engine's inspect shows it."""

    def __init__(self, engine: Engine, inspect: Json, wish: Wish) -> None:
        self.engine, self.inspect, self.wish = engine, inspect, wish
        self.arriving = False
        self._still: list[Socket] | None = None

    @property
    def _pid(self) -> int:
        return int(self.inspect["State"]["Pid"])

    @property
    def _on_host(self) -> bool:
        return docker_checks.shares_host_network(self.inspect)

    @cached_property
    def networks(self) -> list[Json]:
        """Those that somebody made."""
        return [self.engine.network(name) for name in docker_config.user_networks(self.inspect)]

    @cached_property
    def ends(self) -> list[Endpoint]:
        return docker_networks.endpoints(self.inspect, self.networks)

    @property
    def locks(self) -> bool:
        """Whether its traffic is held back while it moves."""
        return self.wish.locks(self.ends)

    def sockets(self) -> list[Socket]:
        """The container's; on the host's network those that its tasks have. Once nothing changes: as they were then."""
        return self._look() if self._still is None else self._still

    def _look(self) -> list[Socket]:
        if self._on_host:
            return sockets_seen.of_tasks(freezer.of(self._pid).pids())
        return sockets_seen.of(self._pid)

    def blockers(self) -> list[Blocker]:
        """Why its sockets would not be at the target what they are here."""
        name = str(self.inspect["Name"]).lstrip("/")
        found = docker_networks.blockers(self.sockets(), self.ends, self.wish, name)
        if self._on_host:
            # Whether it has the address that is listened on, the target says itself.
            found = [blocker for blocker in found if blocker.code != "bound-address"]
        if self.locks and not net_ns.can_lock():
            found.append(Blocker.of("nft-missing", NFT_SENTENCE.format(host="this host")))
        return found

    def fates(self) -> tuple[Connection, ...]:
        """What becomes of each established connection; on the host's network, of those of its tasks."""
        return docker_networks.fates(self.sockets(), self.ends, self.wish)

    def wanted(self) -> Json:
        """What the target needs to know."""
        sockets = self.sockets()
        given = docker_networks.given(str(self.inspect["Id"]))
        return {
            "networks": self.networks,
            "tcp": self.wish.tcp,
            "new_address": self.wish.new_address,
            "bound": sorted(sockets_seen.bound(sockets)),
            "connected": sorted({socket.local.address for socket in sockets_seen.outside(sockets)}),
            "unasked": docker_networks.unasked(self.ends, given),
            "devices": {} if self._on_host else docker_networks.devices(self.ends, net_ns.interfaces(self._pid)),
        }

    def criu_lines(self) -> list[str]:
        """What CRIU is to do about the connections that there are now."""
        return docker_networks.criu_lines(self.sockets(), self.wish, locked=self.locks, host=self._on_host)

    def options(self, lines: list[str]) -> Json:
        """What the target is to do about the network while it restores what was dumped so."""
        early = not self._on_host and docker_networks.needs_early(self.sockets(), self.ends, lines)
        return {"criu": lines, "locked": self.locks, "early": early}

    def announce_lock(self, journal: Journal) -> None:
        """Before lock()."""
        if self.locks:
            moved = docker_networks.movable(self.ends)
            journal.push("lock", container=self.inspect["Id"], pid=self._pid, moved=moved)

    def lock(self) -> bool:
        """The tasks are frozen: hold its traffic back, where that is needed.

        Not where a connection arrives that no task has yet: CRIU moves no such one.
        """
        if self.locks:
            net_ns.lock(self._pid)
        self._still = self._look()
        self.arriving = self.locks and sockets_seen.arriving(self._still)
        if self.arriving:
            self._still = None
            net_ns.unlock(self._pid)
        return not self.arriving


def undo_lock(args: Json) -> None:
    """The neighbours may have learned of the target meanwhile."""
    pid = int(args["pid"])
    try:
        freezer.of_container(pid, args["container"])
    except HaulFailed:
        return
    net_ns.unlock(pid)
    with contextlib.suppress(HaulFailed):
        net_ns.announce(pid, args["moved"])
