"""A container's networks: what it is called there, what of that can move, and what its sockets need.

An address of a network that somebody made goes along. Connections outlive that where peers find the
address at the target's place in the same link: on macvlan and ipvlan. The engine's own bridge gives
out addresses as it likes, so that nothing can be bound to one.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from phaul import journal, overview, sockets_seen
from phaul.docker_config import BUILT_IN_NETWORKS
from phaul.errors import Blocker
from phaul.net_ns import Interface
from phaul.overview import Connection
from phaul.sockets_seen import Socket

Json = dict[str, Any]
MOVABLE = ("macvlan", "ipvlan")
KEEP, CLOSE, REFUSE = "keep", "close", "refuse"
NO_LOCK = "network-lock skip"
CLOSED = ("tcp-close", "skip-in-flight")
# Where inspect shows an address, and how long its network's part is.
LENGTHS = {"IPAddress": "IPPrefixLen", "GlobalIPv6Address": "GlobalIPv6PrefixLen"}
CRIU_LINES = (NO_LOCK, *CLOSED)
EARLY = "phaul0"
NFT_SENTENCE = (
    "nft is not on {host}: install the package nftables, or leave connections behind (--tcp close, or refuse)."
)


@dataclass(frozen=True)
class Endpoint:
    """What the container has in one network; `addresses` with their lengths, `asked` by its configuration."""

    network: str
    driver: str
    addresses: tuple[str, ...]
    hardware: str
    asked: bool

    @property
    def lasting(self) -> bool:
        """Whether the engine gives out the address that it is told to."""
        return self.network not in BUILT_IN_NETWORKS

    @property
    def movable(self) -> bool:
        """Whether peers can find the address at another host."""
        return self.lasting and self.driver in MOVABLE

    @property
    def bare(self) -> tuple[str, ...]:
        return tuple(address.partition("/")[0] for address in self.addresses)


def endpoints(inspect: Json, networks: Iterable[Json]) -> list[Endpoint]:
    """Of what inspect shows of the container, and of the networks that somebody made."""
    drivers = {network["Name"]: str(network["Driver"]) for network in networks}
    found = []
    for name, end in (inspect["NetworkSettings"]["Networks"] or {}).items():
        addresses = tuple(f"{end[seen]}/{end[length]}" for seen, length in LENGTHS.items() if end.get(seen))
        asked = end.get("IPAMConfig") or {}
        found.append(
            Endpoint(
                network=name,
                driver=drivers.get(name, name),
                addresses=addresses,
                hardware=end.get("MacAddress") or "",
                asked=bool(asked.get("IPv4Address") or asked.get("IPv6Address")),
            )
        )
    return found


def movable(ends: Iterable[Endpoint]) -> list[str]:
    """The addresses that peers can find at another host."""
    return [address for end in ends if end.movable for address in end.bare]


def unasked(ends: Iterable[Endpoint], given: Iterable[str]) -> list[str]:
    """The networks in which nobody chose its address: the engine did, or an earlier haul (`given`), to keep it."""
    chosen = set(given)
    return [end.network for end in ends if not end.asked or end.network in chosen]


def given(container: str) -> list[str]:
    """What is said of that in the journal of the haul that brought the container here."""
    for path in journal.all_of(journal.TARGET):
        with contextlib.suppress(OSError, ValueError):
            head = journal.read(path).head
            if head.get("container") == container:
                return list(head.get("unasked", []))
    return []


def devices(ends: Iterable[Endpoint], seen: Iterable[Interface]) -> dict[str, str]:
    """What its devices are called, by network; nothing for a single one."""
    named = {address: one.name for one in seen for address in one.addresses}
    found = {end.network: named[address] for end in ends for address in end.bare[:1] if address in named}
    return found if len(found) > 1 else {}


@dataclass(frozen=True)
class Wish:
    """What is to become of connections and addresses."""

    tcp: str = KEEP
    new_address: bool = False

    def locks(self, ends: Iterable[Endpoint]) -> bool:
        """Whether the container's traffic is to be held back while it moves, and then found at the target."""
        return self.tcp == KEEP and not self.new_address and any(end.movable for end in ends)

    def stays(self, ends: Iterable[Endpoint]) -> set[str]:
        """The addresses that it will have for certain."""
        return set() if self.new_address else {address for end in ends if end.lasting for address in end.bare}


def blockers(sockets: Sequence[Socket], ends: Sequence[Endpoint], wish: Wish, name: str) -> list[Blocker]:
    """Sockets that would not be at the target what they are here."""
    found = []
    broken = [socket for socket in sockets_seen.outside(sockets) if not _goes_on(socket, ends, wish)]
    if broken and wish.tcp != CLOSE:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        why = "connections" if wish.tcp == REFUSE else "connections that its move would break"
        sentence = (
            f"Container {name} has {why} ({broken[0]}{more}): close them first, or let the haul do it (--tcp close)."
        )
        found.append(Blocker.of("connections", sentence, f"container {name}"))
    lost = [socket for socket in sockets if _serves(socket) and socket.local.address not in wish.stays(ends)]
    if lost:
        sentence = (
            f"Container {name} listens on {lost[0].local}, an address that it will not have at the target: "
            "let it listen on all, or put it into a network with an address of its own."
        )
        found.append(Blocker.of("bound-address", sentence, f"container {name}"))
    return found


def fates(sockets: Sequence[Socket], ends: Sequence[Endpoint], wish: Wish) -> tuple[Connection, ...]:
    """What becomes of each established connection."""
    within = sockets_seen.inside(sockets)
    found = [Connection(f"{within} within the container", overview.KEPT)] if within else []
    lost = overview.CLOSED if wish.tcp == CLOSE else overview.REFUSED
    outside = sockets_seen.outside(sockets)
    return (*found, *(Connection(str(one), overview.KEPT if _goes_on(one, ends, wish) else lost) for one in outside))


def _goes_on(socket: Socket, ends: Sequence[Endpoint], wish: Wish) -> bool:
    stays = wish.stays(ends)
    if wish.tcp != KEEP or socket.local.address not in stays:
        return False
    return socket.local.address in movable(ends) or socket.remote.address in stays


def _serves(socket: Socket) -> bool:
    """Whether others are to reach it at an address of its own."""
    return socket.local.own and not socket.outside and socket.remote.anywhere


def criu_lines(sockets: Sequence[Socket], wish: Wish, *, locked: bool, host: bool) -> list[str]:
    """What CRIU is to do about connections, as lines of its configuration (criu(8)); both hosts' do the same.

    Its own lock is for connections that nobody else locks; on the host's network they may be others'.
    """
    if wish.tcp == CLOSE and sockets_seen.outside(sockets):
        return [*CLOSED, NO_LOCK]
    return [] if host or (sockets_seen.inside(sockets) and not locked) else [NO_LOCK]


def needs_early(sockets: Sequence[Socket], ends: Iterable[Endpoint], lines: Sequence[str]) -> bool:
    """Whether sockets are bound to its addresses, which must be there before the engine makes the network."""
    made = [socket for socket in sockets if not (socket.connection and CLOSED[0] in lines)]
    return bool(sockets_seen.bound(made) & {address for end in ends for address in end.bare})


def early_commands(ends: Iterable[Endpoint]) -> str:
    """For `ip -batch`: the addresses on a device that stands in for the engine's, which come later.

    A bridge, since every engine has it; not the loopback, where the whole subnet would be local, and a socket
    would answer itself. Raises ValueError for what is no address.
    """
    addresses = [_plain(address) for end in ends for address in end.addresses]
    lines = [f"link add {EARLY} type bridge", f"link set {EARLY} up"]
    lines += [f"address add {address} dev {EARLY}{' nodad' * (address.version == 6)}" for address in addresses]
    versions = {address.version for address in addresses}
    lines += [
        f"route add {default} dev {EARLY}" for version, default in ((4, "0/0"), (6, "::/0")) if version in versions
    ]
    return "\n".join(lines) + "\n"


def _plain(address: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """Without a scope, which is free text: lines of it would be commands."""
    if "%" in address:
        raise ValueError(f"{address!r} has a scope")
    return ipaddress.ip_interface(address)
