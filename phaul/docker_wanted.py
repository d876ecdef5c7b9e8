"""What a source may say of its container: the shapes (documents.py) of `DockerSource.wanted`, and of what a dump needs.

Of the engine's documents (API 1.44 and newer) only what is read here has a shape; the engine itself looks at all of
them. Names become parts of its URLs: none may lead elsewhere by slashes and dots.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from phaul import docker_config, docker_networks
from phaul.documents import (
    Shape,
    anything,
    each,
    flag,
    maybe,
    nullable,
    number,
    optional,
    path,
    place,
    record,
    row,
    table,
    text,
    within,
    words,
    wrong,
)
from phaul.pid_files import FILE

Json = dict[str, Any]

NAME = words(r"[a-zA-Z0-9][\w.-]{0,254}")
NETWORK_NAME = words(r"(?!\.+$)[^/\x00-\x1f\x7f]{1,254}")
REFERENCE = words(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[a-zA-Z0-9][\w.:/@-]{0,510}")
WORD = words(r"[\w.-]{0,100}")
SYSCTL = words(r"\w[\w.*/-]{0,250}")
PROCESSORS = words(r"(\d{1,5}([,-]\d{1,5}){0,999})?")
PORT = within(0, 65535)
PORTS = words(r"(\d{1,5}(-\d{1,5})?)?")


def _address(value: Any, where: str) -> None:
    """Of IPv4 or IPv6, or none."""
    text(value, where)
    try:
        ipaddress.ip_address(value or "::")
    except ValueError:
        raise wrong(where, "is no address") from None


def _binding(value: Any, where: str) -> None:
    record(HostPort=PORTS, HostIp=optional(_address))(value, where)
    for part in filter(None, value["HostPort"].split("-")):
        PORT(int(part), where)


def _name_or_none(value: Any, where: str) -> None:
    if value != "":
        REFERENCE(value, where)


_END = record(
    IPAMConfig=maybe(table(anything)),
    Links=maybe(each(text)),
    Aliases=maybe(each(text)),
    DriverOpts=maybe(table(text)),
    GwPriority=maybe(within(-(1 << 31), 1 << 31)),
    MacAddress=maybe(text),
    NetworkID=maybe(text),
    IPAddress=maybe(_address),
    GlobalIPv6Address=maybe(_address),
)


def _end(value: Any, where: str) -> None:
    """An address has a length."""
    _END(value, where)
    for address, length in docker_networks.LENGTHS.items():
        if value.get(address):
            _interface(f"{value[address]}/{value.get(length)}", where)


def _interface(said: str, where: str) -> None:
    try:
        ipaddress.ip_interface(said)
    except ValueError:
        raise wrong(where, "has no address") from None


_MOUNT = record(Type=WORD, Destination=path, Source=maybe(place), Name=maybe(text), Driver=maybe(text))
_KINDS = {"volume": record(Name=NAME), "bind": record(Source=path)}


def _mount(value: Any, where: str) -> None:
    _MOUNT(value, where)
    _KINDS.get(value["Type"], anything)(value, where)


_HOST = record(
    NetworkMode=text,
    RestartPolicy=record(Name=text),
    LogConfig=record(Type=text),
    PortBindings=maybe(table(maybe(each(_binding)))),
    Binds=maybe(each(text)),
    Mounts=maybe(each(record(Type=maybe(text), Source=maybe(text)))),
    UTSMode=maybe(text),
    NanoCpus=maybe(number),
    CpusetCpus=optional(PROCESSORS),
    Sysctls=maybe(table(text, SYSCTL)),
    SecurityOpt=maybe(each(text)),
    UsernsMode=maybe(text),
)
_INSPECT = record(
    Id=words(r"[0-9a-f]{12,64}"),
    Config=record(MacAddress=maybe(text)),
    HostConfig=_HOST,
    NetworkSettings=record(Networks=nullable(table(_end, NETWORK_NAME))),
    Mounts=each(_mount),
    AppArmorProfile=maybe(text),
)
_POOL = record(Subnet=maybe(text), Gateway=maybe(text))
_NETWORK = record(
    Name=NETWORK_NAME,
    Driver=text,
    Scope=text,
    Internal=flag,
    Attachable=flag,
    EnableIPv4=maybe(flag),
    EnableIPv6=maybe(flag),
    IPAM=record(Config=maybe(each(_POOL)), Driver=maybe(text), Options=maybe(table(text))),
    Options=nullable(table(place)),
    Labels=nullable(table(text)),
    ConfigFrom=maybe(record(Network=maybe(text))),
)
_IMAGE = record(
    id=REFERENCE,
    name=_name_or_none,
    tags=each(REFERENCE),
    architecture=text,
    store=text,
    size=number,
    content=record(layers=each(words(r"[\w:+.-]{1,200}"))),
)
_VOLUME = record(Name=NAME, Driver=text, Options=nullable(table(place)), Labels=nullable(table(text)))
_WANTED = record(
    inspect=_INSPECT,
    name=NAME,
    image=_IMAGE,
    networks=each(_NETWORK),
    tcp=maybe(words("keep|close|refuse")),
    new_address=maybe(flag),
    bound=each(text),
    connected=maybe(each(text)),
    unasked=each(text),
    devices=table(text),
    volumes=each(_VOLUME),
    binds=table(words("directory|file"), path),
    bind_files=each(FILE),
    serving=each(row(WORD, _address, PORT)),
    copy_binds=flag,
    memory=optional(number),
    bytes=number,
    facts=table(text),
)


def _fitting(value: Any, where: str) -> None:
    """Of that shape, and its parts fit together."""
    _WANTED(value, where)
    mounts = value["inspect"]["Mounts"]
    named = {mount["Name"] for mount in mounts if mount["Type"] == "volume"}
    if not named.issuperset(docker_config.named_volumes(value["inspect"]["HostConfig"])):
        raise wrong("inspect.Mounts", "lacks a volume that was asked for")
    if not named <= {volume["Name"] for volume in value["volumes"]}:
        raise wrong("volumes", "lacks one that is mounted")
    if {mount["Source"] for mount in mounts if mount["Type"] == "bind"} != value["binds"].keys():
        raise wrong("binds", "has others than are mounted")
    reached = {network["Name"] for network in value["networks"]}
    if not set(docker_config.user_networks(value["inspect"])) <= reached:
        raise wrong("networks", "lacks one that it is in")


WANTED: Shape = _fitting
OPTIONS = record(locked=flag, early=flag, criu=each(text))
