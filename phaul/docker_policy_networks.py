"""Which networks a container that comes may have made here. Those that are here already somebody of this host made.

A network changes the host's own: its bridge gets an address and a route, its driver may take a device, or open ports.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator
from typing import Any

from phaul import docker_config, policy
from phaul.docker_names import name_set
from phaul.errors import Blocker

Json = dict[str, Any]

MODES = ("", "default", "bridge", "none", "nat")
_BRIDGE = "com.docker.network.bridge"
_GATEWAYS = ("", "nat", "routed", "isolated")
# Of the network's own. Not the name of its device, which may be one of the host's, nor its trusted interfaces.
OPTIONS = frozenset(
    (
        f"{_BRIDGE}.enable_icc",
        f"{_BRIDGE}.enable_ip_masquerade",
        f"{_BRIDGE}.inhibit_ipv4",
        "com.docker.network.container_iface_prefix",
        "com.docker.network.driver.mtu",
        "com.docker.network.enable_ipv4",
        "com.docker.network.enable_ipv6",
    )
)
MODED = (f"{_BRIDGE}.gateway_mode_ipv4", f"{_BRIDGE}.gateway_mode_ipv6")
# Another subnet, or a larger one, would take the host's way to others' addresses.
SUBNETS = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
)
LARGEST = {4: 16, 6: 48}
POOL_FIELDS = name_set("Subnet IPRange Gateway AuxiliaryAddresses AuxAddress")
ENDPOINT_OPTIONS = frozenset((docker_config.IFNAME,))


def refusals(wanted: Json, body: Json, *, networks: Collection[str], here: str) -> list[Blocker]:
    """`networks` are the names of those that are here."""
    brought = {network["Name"] for network in wanted["networks"]}
    found = [policy.asks(wanted["name"], words, here) for words in _joined(body, brought)]
    for network in wanted["networks"]:
        if network["Name"] not in networks:
            found += _made(network, here)
    return found


def _joined(body: Json, brought: Collection[str]) -> Iterator[str]:
    mode = str(body["HostConfig"]["NetworkMode"])
    if mode not in MODES and mode not in brought:
        yield f"--network {mode[:60]}"
    for name, end in body["NetworkingConfig"]["EndpointsConfig"].items():
        if (name not in MODES and name not in brought and name != mode) or (name == "host" and mode != "host"):
            yield f"the network {name[:60]}, which it does not bring"
        if end.get("Links"):
            yield f"--link in the network {name[:60]}"
        yield from (
            f"the network option {key[:60]}" for key in sorted((end.get("DriverOpts") or {}).keys() - ENDPOINT_OPTIONS)
        )


def _made(network: Json, here: str) -> list[Blocker]:
    """What is wrong with one that is to be made."""
    subject = f"network {network['Name']}"
    return [
        Blocker(
            policy.CODE,
            f"N{subject[1:]} would have {words}, which {here} does not let others make",
            f"make it there first (docker network create), or start p.haul-service there with {policy.PRIVILEGED}",
            subject,
        )
        for words in dict.fromkeys(_odd(network))
    ]


def _odd(network: Json) -> Iterator[str]:
    if network["Driver"] != "bridge":
        yield f"the driver {str(network['Driver'])[:40]}"
        return  # its options are that driver's
    for name, value in (network["Options"] or {}).items():
        if not (name in OPTIONS or (name in MODED and value in _GATEWAYS)):
            yield f"the option {name[:60]}={str(value)[:40]}"
    ipam = network["IPAM"]
    yield from (f"the addressing {key[:40]}" for key in sorted(ipam.keys() - {"Driver", "Options", "Config"}))
    if ipam.get("Driver") not in ("default", "", None) or ipam.get("Options"):
        yield f"the addressing of {str(ipam.get('Driver'))[:40]}"
    for pool in ipam.get("Config") or []:
        yield from (f"the pool's {key[:40]}" for key in sorted(pool.keys() - POOL_FIELDS))
        if pool.get("Subnet") and not _is_private(ipaddress.ip_network(pool["Subnet"], strict=False)):
            yield f"the subnet {pool['Subnet'][:60]}, which is not for private use, or a large part of that"


def _is_private(subnet: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    small = subnet.prefixlen >= LARGEST[subnet.version]
    return small and any(subnet.version == one.version and subnet.subnet_of(one) for one in SUBNETS)  # type: ignore[arg-type]
