"""What `docker create` at the target must be told, from what `docker inspect` shows at the source.

Shapes: engine API 1.44 and newer, ContainerInspect and ContainerCreate
(https://docs.docker.com/reference/api/engine/).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

Json = dict[str, Any]

RUNTIME = "phaul"
NO_RESTART = {"Name": "no", "MaximumRetryCount": 0}
# What can be asked for, and where inspect shows what there is.
ADDRESSES = {"IPv4Address": "IPAddress", "IPv6Address": "GlobalIPv6Address"}
IFNAME = "com.docker.network.endpoint.ifname"
BUILT_IN_NETWORKS = ("bridge", "host", "none", "default")


def create_body(inspect: Json, image: str, *, fixed: Collection[str] = (), names: Mapping[str, str] = {}) -> Json:
    """The body of POST /containers/create; the restart policy comes only once the container runs.

    In the networks `fixed` it has the addresses that it had; `names` are its devices' names, by network.
    """
    host = {**inspect["HostConfig"], "Runtime": RUNTIME, "RestartPolicy": NO_RESTART}
    # What shares its host's name shows that name, and may ask for none.
    name = {"Hostname": "", "Domainname": ""} if host.get("UTSMode") == "host" else {}
    return {
        **inspect["Config"],
        **name,
        "Image": image,
        "HostConfig": {**host, "NetworkMode": main_network(inspect)},
        "NetworkingConfig": {"EndpointsConfig": endpoints(inspect, fixed=fixed, names=names)},
    }


def main_network(inspect: Json) -> str:
    """The network mode, with a network by its name: its id is another one elsewhere."""
    mode = str(inspect["HostConfig"]["NetworkMode"])
    ends = inspect["NetworkSettings"]["Networks"] or {}
    by_id = [name for name, end in ends.items() if len(mode) >= 12 and str(end.get("NetworkID", "")).startswith(mode)]
    return by_id[0] if by_id and mode not in ends else mode


def endpoints(inspect: Json, *, fixed: Collection[str] = (), names: Mapping[str, str] = {}) -> Json:
    """What was asked for each network; what the source's engine chose by itself is left out but in those `fixed`."""
    wanted: Json = {}
    main = main_network(inspect)
    own = {inspect["Id"][:12], inspect["Id"]}
    for name, end in (inspect["NetworkSettings"]["Networks"] or {}).items():
        kept = name in fixed
        wanted[name] = {
            "IPAMConfig": _addresses(end, kept=kept),
            "Links": end.get("Links"),
            "Aliases": [alias for alias in end.get("Aliases") or [] if alias not in own] or None,
            "DriverOpts": _named(end.get("DriverOpts"), names.get(name, "")),
            "GwPriority": end.get("GwPriority", 0),
        }
        asked = inspect["Config"].get("MacAddress", "")
        if kept and end.get("MacAddress"):
            wanted[name]["MacAddress"] = end["MacAddress"]
        elif name == main or (name == "bridge" and main == "default"):
            wanted[name]["MacAddress"] = asked
    return wanted


def _addresses(end: Json, *, kept: bool) -> Json | None:
    config = {key: value for key, value in (end.get("IPAMConfig") or {}).items() if key not in ADDRESSES}
    if kept:
        config |= {asked: end[seen] for asked, seen in ADDRESSES.items() if end.get(seen)}
    return config or None


def _named(options: Json | None, name: str) -> Json | None:
    return {**(options or {}), IFNAME: name} if name else options


def user_networks(inspect: Json) -> list[str]:
    """Names of the networks that somebody made."""
    return [name for name in inspect["NetworkSettings"]["Networks"] or {} if name not in BUILT_IN_NETWORKS]


def network_body(network: Json, *, subnets: bool = True) -> Json:
    """The body of POST /networks/create, from what the source's network inspect shows.

    Without its subnets the engine chooses some.
    """
    ipam = network["IPAM"] if subnets else {**network["IPAM"], "Config": []}
    return {
        "Name": network["Name"],
        "Driver": network["Driver"],
        "Internal": network["Internal"],
        "Attachable": network["Attachable"],
        "EnableIPv4": network.get("EnableIPv4", True),
        "EnableIPv6": network.get("EnableIPv6", False),
        "IPAM": ipam,
        "Options": network["Options"],
        "Labels": network["Labels"],
    }


def volumes(inspect: Json) -> list[Json]:
    """The container's volume mounts, as `Mounts` of inspect shows them, by destination."""
    found = [mount for mount in inspect["Mounts"] if mount["Type"] == "volume"]
    return sorted(found, key=lambda mount: str(mount["Destination"]))


def binds(inspect: Json) -> list[Json]:
    """The container's bind mounts, by destination."""
    found = [mount for mount in inspect["Mounts"] if mount["Type"] == "bind"]
    return sorted(found, key=lambda mount: str(mount["Destination"]))


def is_anonymous(inspect: Json, volume: Json) -> bool:
    """Whether nobody named the volume: the target's engine then makes one of its own."""
    return volume["Name"] not in named_volumes(inspect["HostConfig"])


def named_volumes(host: Json) -> list[str]:
    """The volumes that the container was told to have, by their names."""
    named = [bind.partition(":")[0] for bind in host.get("Binds") or [] if not bind.startswith("/")]
    named += [mount.get("Source") or "" for mount in host.get("Mounts") or [] if mount.get("Type") == "volume"]
    return [name for name in named if name]


def published(inspect: Json) -> list[tuple[str, str, int]]:
    """Ports asked for on the host, as (protocol, address or "", port); those the engine chooses are left out."""
    found = []
    for inner, bindings in (inspect["HostConfig"].get("PortBindings") or {}).items():
        protocol = inner.partition("/")[2] or "tcp"
        for binding in bindings or []:
            first, _, last = binding["HostPort"].partition("-")
            if first and not last and int(first):
                found.append((protocol, binding.get("HostIp", ""), int(first)))
    return found
