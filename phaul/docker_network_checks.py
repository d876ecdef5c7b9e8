"""Which of a container's networks and addresses this host can give it, seen at the target. Reading only."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phaul import link_probe, net_ns
from phaul.docker_api import Engine
from phaul.docker_networks import NFT_SENTENCE, Endpoint, Wish, endpoints
from phaul.errors import Blocker, HaulFailed, PhaulError
from phaul.run import run

Json = dict[str, Any]
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network
DEVICES = Path("/sys/class/net")
BRIDGE_NAME = "com.docker.network.bridge.name"
NOT_GIVING = (
    "Network {network} of the target takes no fixed addresses, since it was made without --subnet: "
    "make it anew there with one, or use --new-address."
)


@dataclass(frozen=True)
class Look:
    """What became of it: `fixed` are the networks in which it keeps its addresses, `fresh` those made with others."""

    blockers: tuple[Blocker, ...]
    fixed: frozenset[str]
    fresh: frozenset[str]


def wish_of(wanted: Json) -> Wish:
    return Wish(tcp=str(wanted.get("tcp", "refuse")), new_address=bool(wanted.get("new_address")))


def look(engine: Engine, wanted: Json, host: str) -> Look:
    """At this host, for the networks that the container is in; `host` names it for people."""
    ends = endpoints(wanted["inspect"], wanted["networks"])
    here = {str(network["Name"]): network for network in engine.networks()}
    sight = _Sight(engine, here, host)
    hard: list[Blocker] = []
    soft: list[Blocker] = []
    fixed, fresh = set(), set()
    for end in ends:
        network = next((one for one in wanted["networks"] if one["Name"] == end.network), None)
        if network is None:
            continue
        wrong = sight.kinds(network)
        hard += wrong
        taken = sight.subnets(network) if not wrong and end.network not in here else []
        lost = taken or (sight.addresses(end) if end.network in here else [])
        soft += lost
        if taken:
            fresh.add(end.network)
        if not lost and end.addresses:
            fixed.add(end.network)
    wish = wish_of(wanted)
    if wish.locks(ends):
        hard += _movable(ends, wanted, here, host)
    return Look(tuple(hard if wish.new_address else [*hard, *soft]), frozenset(fixed), frozenset(fresh))


class _Sight:
    """One look: what of this host's networks is in the way of one that comes."""

    def __init__(self, engine: Engine, here: dict[str, Json], host: str) -> None:
        self.engine, self.here, self.host = engine, here, host

    def kinds(self, network: Json) -> list[Blocker]:
        """What no other address would help."""
        name, there = network["Name"], self.here.get(network["Name"])
        if there:
            if there["Driver"] == network["Driver"]:
                return []
            drivers = f"the driver {there['Driver']}, not {network['Driver']}"
            return [Blocker.of("network", f"Network {name} on {self.host} has {drivers}: remove or rename it there.")]
        if network["Scope"] != "local":
            return [
                Blocker.of(
                    "network", f"Network {name} is of the scope {network['Scope']}: make it on {self.host} first."
                )
            ]
        if (network.get("ConfigFrom") or {}).get("Network"):
            why = "takes its configuration from another network"
            return [Blocker.of("network", f"Network {name} {why}: make it on {self.host} first.")]
        return [*self._parent(network), *self._bridge(network)]

    def _parent(self, network: Json) -> list[Blocker]:
        """The link of macvlan and ipvlan; the engine makes those of VLANs (eth0.5) itself."""
        parent = str((network["Options"] or {}).get("parent", ""))
        if not parent:
            return []
        if not any((DEVICES / device).exists() for device in (parent, parent.rpartition(".")[0]) if device):
            why = f"is on the link {parent}, which {self.host} has not"
            hint = f"make it there first, on a link that {self.host} has"
            return [Blocker.of("network-parent", f"Network {network['Name']} {why}: {hint}.")]
        for other in self.here.values():
            if (other["Options"] or {}).get("parent") == parent:
                why = f"is on the link {parent}, which on {self.host} is network {other['Name']}'s"
                return [
                    Blocker.of("network-parent", f"Network {network['Name']} {why}: remove that one, or name it so.")
                ]
        return []

    def _bridge(self, network: Json) -> list[Blocker]:
        device = (network["Options"] or {}).get(BRIDGE_NAME)
        for other in self.here.values():
            if device and (other["Options"] or {}).get(BRIDGE_NAME) == device:
                why = f"has the device {device}, which on {self.host} is network {other['Name']}'s"
                return [Blocker.of("network", f"Network {network['Name']} {why}: remove that one there.")]
        return []

    def subnets(self, network: Json) -> list[Blocker]:
        """Whether its subnets are free for a network that is yet to be made."""
        for subnet in _subnets(network):
            for other, theirs in self._taken(network):
                if subnet.version == theirs.version and subnet.overlaps(theirs):
                    words = f"overlaps {theirs} of {other} on {self.host}: let it have another, by --new-address"
                    return [Blocker.of("subnet-taken", f"Subnet {subnet} of network {network['Name']} {words}.")]
        return []

    def _taken(self, network: Json) -> Iterator[tuple[str, Subnet]]:
        for name, other in self.here.items():
            yield from ((f"network {name}", subnet) for subnet in _subnets(other))
        if network["Driver"] == "bridge":
            yield from _of_host({f"br-{other['Id'][:12]}" for other in self.here.values()} | self._bridges())

    def _bridges(self) -> set[str]:
        return {str((other["Options"] or {}).get(BRIDGE_NAME, "")) for other in self.here.values()}

    def addresses(self, end: Endpoint) -> list[Blocker]:
        """Whether the network that is here can give it its addresses."""
        seen = self.engine.network(end.network)
        subnets = _subnets(seen)
        taken = {part.partition("/")[0] for one in (seen.get("Containers") or {}).values() for part in _given(one)}
        taken |= {str(config["Gateway"]).partition("/")[0] for config in _configs(seen) if config.get("Gateway")}
        for address in end.bare:
            where = f"network {end.network} on {self.host}"
            if not any(ipaddress.ip_address(address) in subnet for subnet in subnets):
                has = ", ".join(map(str, subnets)) or "no subnet"
                return [
                    Blocker.of("address", f"{address} is no address of {where}, which has {has}: use --new-address.")
                ]
            if address in taken:
                return [Blocker.of("address", f"{address} of {where} is taken: free it there, or use --new-address.")]
        return []


def not_giving(sentence: str, fixed: Collection[str]) -> str:
    """The network that the engine gives no fixed address in, by its words (moby's validateEndpointSettings)."""
    found = re.search(r"invalid config for network (\S+): .*user configured subnets", sentence, re.DOTALL)
    return found[1] if found and found[1] in fixed else ""


def may_change(wanted: Json, network: str) -> bool:
    """Whether its address in the network is nobody's wish and no socket's need."""
    if wish_of(wanted).new_address:
        return True
    ends = {end.network: end for end in endpoints(wanted["inspect"], wanted["networks"])}
    return network in wanted["unasked"] and not set(ends[network].bare) & set(wanted["bound"])


def same_devices(first: int, wanted: Json, fixed: Collection[str]) -> None:
    """Each of several devices must be called as it was. Raises HaulFailed (devices)."""
    devices: dict[str, str] = wanted["devices"]
    if not devices:
        return
    seen = {one.name: one.addresses for one in net_ns.interfaces(first)}
    for end in endpoints(wanted["inspect"], wanted["networks"]):
        name = devices.get(end.network, "")
        if name and (name not in seen or (end.network in fixed and not set(end.bare) <= seen[name])):
            why = f"it made its networks in another order (of {end.network} {name} was)"
            raise HaulFailed(f"The target's engine calls the network devices otherwise: {why}.", code="devices")


def _movable(ends: Sequence[Endpoint], wanted: Json, here: dict[str, Json], host: str) -> list[Blocker]:
    """Whether peers find the container at this host, where it has connections that are to go on."""
    if not net_ns.can_lock():
        return [Blocker.of("nft-missing", NFT_SENTENCE.format(host=host))]
    needed = set(wanted.get("connected") or ())
    found = []
    for end in ends:
        addresses = [address for address in end.bare if ":" not in address]
        if not (end.movable and addresses and needed & set(end.bare)):
            continue
        network = here.get(end.network) or next(one for one in wanted["networks"] if one["Name"] == end.network)
        parent = str((network["Options"] or {}).get("parent", ""))
        if (DEVICES / parent).exists() and end.driver == "macvlan":
            found += _reachable(parent, addresses[0], end, host)
    return found


def _reachable(parent: str, address: str, end: Endpoint, host: str) -> list[Blocker]:
    seen = link_probe.who_has(parent, address)
    if end.hardware.lower() in seen:
        return []
    where = f"The link {parent} of {host}, where network {end.network} is to be,"
    hint = "its connections would break there. Close them first, or let the haul do it (--tcp close)"
    if seen:
        return [Blocker.of("address", f"{where} has {address} at another host ({min(seen)}): {hint}.")]
    return [Blocker.of("other-link", f"{where} is another than that of this container ({address}): {hint}.")]


def _configs(network: Json) -> list[Json]:
    return (network.get("IPAM") or {}).get("Config") or []


def _subnets(network: Json) -> list[Subnet]:
    found: list[Subnet] = []
    for config in _configs(network):
        with contextlib.suppress(ValueError):
            found.append(ipaddress.ip_network(config.get("Subnet", ""), strict=False))
    return found


def _given(one: Json) -> list[str]:
    return [str(one[key]) for key in ("IPv4Address", "IPv6Address") if one.get(key)]


def _of_host(bridges: Collection[str]) -> Iterator[tuple[str, Subnet]]:
    """The subnets of this host's own devices, but for the engine's bridges."""
    shown: list[Json] = []
    with contextlib.suppress(PhaulError, ValueError):
        shown = json.loads(run(["ip", "-j", "address"], timeout=20).out)
    for device in shown:
        if device["ifname"] in bridges:
            continue
        for address in device["addr_info"]:
            if address.get("scope") == "global":
                subnet = ipaddress.ip_network(f"{address['local']}/{address['prefixlen']}", strict=False)
                yield f"the link {device['ifname']}", subnet
