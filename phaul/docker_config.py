"""What `docker create` at the target must be told, from what `docker inspect` shows at the source.

Shapes: engine API 1.44 and newer, ContainerInspect and ContainerCreate
(https://docs.docker.com/reference/api/engine/).
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

RUNTIME = "phaul"
NO_RESTART = {"Name": "no", "MaximumRetryCount": 0}
BUILT_IN_NETWORKS = ("bridge", "host", "none", "default")


def create_body(inspect: Json, image: str) -> Json:
    """The body of POST /containers/create; the restart policy comes only once the container runs."""
    host = {**inspect["HostConfig"], "Runtime": RUNTIME, "RestartPolicy": NO_RESTART}
    # What shares its host's name shows that name, and may ask for none.
    name = {"Hostname": "", "Domainname": ""} if host.get("UTSMode") == "host" else {}
    return {
        **inspect["Config"],
        **name,
        "Image": image,
        "HostConfig": host,
        "NetworkingConfig": {"EndpointsConfig": endpoints(inspect)},
    }


def endpoints(inspect: Json) -> Json:
    """What was asked for each network; what the source's engine chose by itself is left out."""
    wanted: Json = {}
    main = inspect["HostConfig"]["NetworkMode"]
    for name, end in (inspect["NetworkSettings"]["Networks"] or {}).items():
        own = {inspect["Id"][:12], inspect["Id"]}
        wanted[name] = {
            "IPAMConfig": end.get("IPAMConfig"),
            "Links": end.get("Links"),
            "Aliases": [alias for alias in end.get("Aliases") or [] if alias not in own] or None,
            "DriverOpts": end.get("DriverOpts"),
            "GwPriority": end.get("GwPriority", 0),
        }
        if name == main or (name == "bridge" and main == "default"):
            wanted[name]["MacAddress"] = inspect["Config"].get("MacAddress", "")
    return wanted


def user_networks(inspect: Json) -> list[str]:
    """Names of the networks that somebody made."""
    return [name for name in inspect["NetworkSettings"]["Networks"] or {} if name not in BUILT_IN_NETWORKS]


def network_body(network: Json) -> Json:
    """The body of POST /networks/create, from what the source's network inspect shows."""
    return {
        "Name": network["Name"],
        "Driver": network["Driver"],
        "Internal": network["Internal"],
        "Attachable": network["Attachable"],
        "EnableIPv6": network.get("EnableIPv6", False),
        "IPAM": network["IPAM"],
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
    host = inspect["HostConfig"]
    named = {bind.split(":", 1)[0] for bind in host.get("Binds") or []}
    named |= {mount.get("Source", "") for mount in host.get("Mounts") or [] if mount.get("Type") == "volume"}
    return volume["Name"] not in named


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
