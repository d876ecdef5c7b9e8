"""What a source says of a container, as the engine's API (28) shows one: the seeds of what is made of that."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]
ID = "c0ffee" * 10 + "beef"
NETWORK: Json = {
    "Name": "net",
    "Id": "1" * 64,
    "Driver": "bridge",
    "Scope": "local",
    "Internal": False,
    "Attachable": False,
    "EnableIPv4": True,
    "EnableIPv6": False,
    "IPAM": {"Driver": "default", "Options": None, "Config": [{"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.1"}]},
    "Options": {"com.docker.network.bridge.name": "br0"},
    "Labels": {},
    "ConfigFrom": {"Network": ""},
}
END: Json = {
    "IPAMConfig": {"IPv4Address": "10.9.0.7"},
    "Links": None,
    "Aliases": ["web", ID[:12]],
    "DriverOpts": None,
    "GwPriority": 0,
    "NetworkID": "1" * 64,
    "IPAddress": "10.9.0.7",
    "IPPrefixLen": 24,
    "GlobalIPv6Address": "fd00::7",
    "GlobalIPv6PrefixLen": 64,
    "MacAddress": "02:42:0a:09:00:07",
}
HOST: Json = {
    "NetworkMode": "net",
    "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
    "LogConfig": {"Type": "json-file", "Config": {}},
    "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "18080"}], "53/udp": None},
    "Binds": ["data:/data", "/srv:/srv"],
    "Mounts": [{"Type": "volume", "Source": "more", "Target": "/more"}, {"Type": "tmpfs", "Target": "/t"}],
    "UTSMode": "",
    "NanoCpus": 500000000,
    "CpusetCpus": "0-1",
    "Sysctls": {"net.core.somaxconn": "128"},
    "SecurityOpt": ["seccomp=unconfined"],
    "UsernsMode": "",
}
INSPECT: Json = {
    "Id": ID,
    "Name": "/web",
    "Config": {"Image": "web:1", "MacAddress": "", "Env": ["A=1"]},
    "HostConfig": HOST,
    "NetworkSettings": {"Networks": {"net": END}},
    "Mounts": [
        {"Type": "volume", "Name": "data", "Source": "/x/data", "Destination": "/data", "Driver": "local"},
        {"Type": "volume", "Name": "more", "Source": "/x/more", "Destination": "/more", "Driver": "local"},
        {"Type": "bind", "Source": "/srv", "Destination": "/srv"},
    ],
    "AppArmorProfile": "",
}
VOLUME: Json = {"Name": "data", "Driver": "local", "Options": {"type": "tmpfs", "device": "tmpfs"}, "Labels": None}
WANTED: Json = {
    "inspect": INSPECT,
    "name": "web",
    "image": {
        "id": "sha256:" + "a" * 64,
        "name": "web:1",
        "tags": ["web:1", "example.org:5000/web@sha256:" + "b" * 64],
        "architecture": "amd64",
        "os": "linux",
        "size": 1 << 20,
        "store": "overlay2",
        "content": {"layers": ["sha256:" + "c" * 64], "created": "", "config": {}},
    },
    "networks": [NETWORK],
    "tcp": "keep",
    "new_address": False,
    "bound": ["10.9.0.7"],
    "connected": ["10.9.0.7"],
    "unasked": [],
    "devices": {"net": "eth0"},
    "volumes": [VOLUME, {**VOLUME, "Name": "more", "Options": None}],
    "binds": {"/srv": "directory"},
    "bind_files": [{"path": "/srv/file", "size": 3, "grows": True}],
    "serving": [["tcp", "0.0.0.0", 19999]],
    "copy_binds": False,
    "memory": 1 << 20,
    "bytes": 1 << 20,
    "facts": {"Docker": "28.5.2", "runc": "1.3", "security": "seccomp apparmor"},
}
TASKS: Json = {
    "pids": [4711],
    "memory": 1,
    "threads": [4711, 4712],
    "files": [{"path": "/etc/hostname", "size": 5, "grows": False}],
    "shell_job": False,
    "root": "",
    "rpid": "/tmp/nowhere/id",
}
OPTIONS: Json = {"criu": ["network-lock skip", "tcp-close"], "locked": True, "early": True, "lazy": False}


def written(*documents: Any) -> list[bytes]:
    return [json.dumps(document, separators=(",", ":")).encode() for document in documents]


def on_macvlan() -> Json:
    parent = {"parent": "lo"}
    return {**WANTED, "networks": [{**NETWORK, "Driver": "macvlan", "Options": parent}], "copy_binds": True}


def on_host() -> Json:
    none = {"NetworkSettings": {"Networks": {"host": {**END, "IPAddress": "", "GlobalIPv6Address": ""}}}}
    return {**WANTED, "inspect": {**INSPECT, **none, "HostConfig": {**HOST, "NetworkMode": "host"}}, "networks": []}
