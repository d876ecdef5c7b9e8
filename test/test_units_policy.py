"""What a container may ask of the host that it comes to: each field of its configuration, by itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phaul import docker_policy, freezer
from phaul.docker_networks import Endpoint, early_commands
from phaul.errors import ProtocolError
from phaul.policy import EVERYTHING, STRICT, Policy

Json = dict[str, Any]
Step = str | int
HOST = ("inspect", "HostConfig")
MASKED = [*docker_policy.MASKED, "/proc/timer_stats", "/sys/devices/virtual/powercap"]
# As a source of Docker 28 sends it, of `docker run --name web -v data:/data --network own -p 80:80 busybox`.
WANTED: Json = {
    "name": "web",
    "image": {"id": f"sha256:{'ab' * 32}", "name": "busybox", "tags": ["busybox:latest", "host.example:5000/own/it:1"]},
    "networks": [
        {
            "Name": "own",
            "Driver": "bridge",
            "Scope": "local",
            "IPAM": {
                "Driver": "default",
                "Options": {},
                "Config": [{"Subnet": "10.99.1.0/24", "Gateway": "10.99.1.1"}],
            },
            "Options": {"com.docker.network.driver.mtu": "1400"},
            "Labels": {},
            "Internal": False,
            "Attachable": False,
        }
    ],
    "volumes": [{"Name": "data", "Driver": "local", "Options": None, "Labels": None}],
    "devices": {"own": "eth0"},
    "binds": {},
    "bind_files": [],
    "copy_binds": False,
    "inspect": {
        "Id": "c" * 64,
        "Config": {"Hostname": "cccccccccccc", "Env": ["A=b"], "Image": "busybox", "Labels": {}, "Cmd": ["sh"]},
        "HostConfig": {
            "Binds": ["data:/data"],
            "NetworkMode": "own",
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
            "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "80"}]},
            "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
            "CapAdd": ["CAP_CHOWN", "net_raw"],
            "CapDrop": ["ALL"],
            "CgroupnsMode": "private",
            "IpcMode": "private",
            "OomScoreAdj": 100,
            "OomKillDisable": False,
            "SecurityOpt": ["no-new-privileges"],
            "Sysctls": {"net.core.somaxconn": "321", "net.ipv4.conf.eth0/1.forwarding": "1", "kernel.shmmax": "1"},
            "Ulimits": [{"Name": "nofile", "Hard": 950, "Soft": 900}],
            "Mounts": [{"Type": "tmpfs", "Target": "/scratch", "TmpfsOptions": {"SizeBytes": 4096}}],
            "MaskedPaths": MASKED,
            "ReadonlyPaths": [*docker_policy.READONLY],
            "Devices": [],
            "Memory": 1 << 28,
            "Runtime": "runc",
            "ConsoleSize": [0, 0],
        },
        "NetworkSettings": {"Networks": {"own": {"NetworkID": "d" * 64, "IPAMConfig": None}}},
        "Mounts": [{"Type": "volume", "Name": "data", "Source": "/x", "Destination": "/data", "Driver": "local"}],
    },
}
# By what is said of it: where the document is changed, and to what.
ASKED: list[tuple[str, Sequence[Step], Any]] = [
    ("--privileged", (*HOST, "Privileged"), True),
    ("privileged=True", (*HOST, "privileged"), True),
    ("maskedpaths=[]", (*HOST, "maskedpaths"), []),
    ("Surprise=1", (*HOST, "Surprise"), 1),
    ("hostconfig=", ("inspect", "Config", "hostconfig"), {"Privileged": True}),
    ("Surprise=", ("inspect", "Config", "Surprise"), ["x"]),
    ("--annotation", (*HOST, "Annotations"), {"org.criu.config": "/data/criu.conf"}),
    ("--cap-add SYS_ADMIN", (*HOST, "CapAdd"), ["SYS_ADMIN"]),
    ("--cap-add ALL", (*HOST, "CapAdd"), ["ALL"]),
    ("--cap-add cap_net_admin", (*HOST, "CapAdd"), ["CHOWN", "cap_net_admin"]),
    ("the cgroup", (*HOST, "Cgroup"), "container:other"),
    ("--cgroup-parent", (*HOST, "CgroupParent"), "/system.slice"),
    ("--cgroupns host", (*HOST, "CgroupnsMode"), "host"),
    ("--cpu-rt-runtime", (*HOST, "CpuRealtimeRuntime"), 95000),
    ("--cpu-rt-period", (*HOST, "CpuRealtimePeriod"), 95000),
    ("--device-cgroup-rule", (*HOST, "DeviceCgroupRules"), ["b 8:0 rwm"]),
    ("--gpus", (*HOST, "DeviceRequests"), [{"Driver": "cdi", "DeviceIDs": ["vendor.example/device=1"]}]),
    ("--device", (*HOST, "Devices"), [{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda"}]),
    ("--ipc host", (*HOST, "IpcMode"), "host"),
    ("--ipc container:other", (*HOST, "IpcMode"), "container:other"),
    ("--isolation", (*HOST, "Isolation"), "hyperv"),
    ("--link", (*HOST, "Links"), ["/other:/web/other"]),
    ("--log-driver syslog", (*HOST, "LogConfig", "Type"), "syslog"),
    ("type=syslog", (*HOST, "LogConfig", "type"), "syslog"),
    ("systempaths=unconfined", (*HOST, "MaskedPaths"), []),
    ("/proc/kcore is not protected", (*HOST, "MaskedPaths"), sorted({*MASKED} - {"/proc/kcore"})),
    ("/proc/sys is not protected", (*HOST, "ReadonlyPaths"), sorted(docker_policy.READONLY - {"/proc/sys"})),
    ("--oom-score-adj -1000", (*HOST, "OomScoreAdj"), -1000),
    ("--pid host", (*HOST, "PidMode"), "host"),
    ("--pid container:other", (*HOST, "PidMode"), "container:other"),
    ("--security-opt seccomp=unconfined", (*HOST, "SecurityOpt"), ["seccomp=unconfined"]),
    ("--security-opt seccomp={", (*HOST, "SecurityOpt"), ['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']),
    ("--security-opt apparmor=unconfined", (*HOST, "SecurityOpt"), ["apparmor=unconfined"]),
    ("--security-opt label=disable", (*HOST, "SecurityOpt"), ["label=disable"]),
    ("--security-opt writable-cgroups=true", (*HOST, "SecurityOpt"), ["writable-cgroups=true"]),
    ("--storage-opt", (*HOST, "StorageOpt"), {"dm.basesize": "1"}),
    ("--sysctl kernel.core_pattern", (*HOST, "Sysctls"), {"kernel.core_pattern": "|/data/x"}),
    ("--sysctl vm.overcommit_memory", (*HOST, "Sysctls"), {"vm.overcommit_memory": "1"}),
    ("--uts host", (*HOST, "UTSMode"), "host"),
    ("--ulimit rtprio", (*HOST, "Ulimits"), [{"Name": "rtprio", "Hard": 99, "Soft": 99}]),
    ("name=rtprio", (*HOST, "Ulimits"), [{"Name": "nofile", "name": "rtprio", "Hard": 99, "Soft": 99}]),
    ("--userns host", (*HOST, "UsernsMode"), "host"),
    ("--volume-driver", (*HOST, "VolumeDriver"), "rexray"),
    ("--volumes-from", (*HOST, "VolumesFrom"), ["other"]),
    ("--network host", (*HOST, "NetworkMode"), "host"),
    ("--network container:other", (*HOST, "NetworkMode"), "container:other"),
    ("--network theirs", (*HOST, "NetworkMode"), "theirs"),
    ("the network theirs", ("inspect", "NetworkSettings", "Networks", "theirs"), {}),
    ("the network host", ("inspect", "NetworkSettings", "Networks", "host"), {}),
    ("--link in the network own", ("inspect", "NetworkSettings", "Networks", "own", "Links"), ["other:o"]),
    (
        "the network option com.docker.network.endpoint.sysctls",
        ("inspect", "NetworkSettings", "Networks", "own", "DriverOpts"),
        {"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.forwarding=1"},
    ),
    ("the driver macvlan", ("networks", 0, "Driver"), "macvlan"),
    (
        "the option com.docker.network.bridge.name=docker0",
        ("networks", 0, "Options"),
        {"com.docker.network.bridge.name": "docker0"},
    ),
    (
        "gateway_mode_ipv4=nat-unprotected",
        ("networks", 0, "Options"),
        {"com.docker.network.bridge.gateway_mode_ipv4": "nat-unprotected"},
    ),
    ("the subnet 8.8.8.0/24", ("networks", 0, "IPAM", "Config", 0, "Subnet"), "8.8.8.0/24"),
    ("the subnet 169.254.0.0/16", ("networks", 0, "IPAM", "Config", 0, "Subnet"), "169.254.0.0/16"),
    ("the subnet 0.0.0.0/1", ("networks", 0, "IPAM", "Config", 0, "Subnet"), "0.0.0.0/1"),
    ("the subnet 10.0.0.0/8", ("networks", 0, "IPAM", "Config", 0, "Subnet"), "10.0.0.0/8"),
    ("the pool's subnet", ("networks", 0, "IPAM", "Config", 0, "subnet"), "8.8.8.0/24"),
    ("the addressing of theirs", ("networks", 0, "IPAM", "Driver"), "theirs"),
    ("a mount of type image", (*HOST, "Mounts"), [{"Type": "image", "Source": "secret", "Target": "/x"}]),
    ("a mount with type", (*HOST, "Mounts"), [{"Type": "tmpfs", "type": "bind", "Target": "/x"}]),
    ("volume theirs, which it does not bring", (*HOST, "Binds"), ["theirs:/data"]),
    (
        "volume theirs, which it does not bring",
        (*HOST, "Mounts"),
        [{"Type": "volume", "Source": "theirs", "Target": "/x"}],
    ),
    ("of the driver nfs", ("volumes", 0, "Driver"), "nfs"),
    ("device=/dev/sda", ("volumes", 0, "Options"), {"type": "ext4", "device": "/dev/sda"}),
    ("lowerdir", ("volumes", 0, "Options"), {"type": "overlay", "device": "overlay", "o": "lowerdir=/etc:/usr"}),
    ("reach the host", (*HOST, "Binds"), ["data:/data:rshared"]),
]
# Parts of the host's file system.
BOUND: list[tuple[Sequence[Step], Any]] = [
    ((*HOST, "Binds"), ["/etc:/x"]),
    ((*HOST, "Binds"), ["/srv/link/x:/x:ro"]),
    ((*HOST, "Mounts"), [{"Type": "bind", "Source": "/etc", "Target": "/x"}]),
    (("volumes", 0, "Options"), {"type": "none", "o": "bind", "device": "/etc"}),
    (("volumes", 0, "Options"), {"type": "tmpfs", "o": "bind", "device": "/etc"}),
    (
        (*HOST, "Mounts"),
        [
            {
                "Type": "volume",
                "Target": "/x",
                "VolumeOptions": {
                    "DriverConfig": {"Name": "local", "Options": {"type": "none", "o": "bind", "device": "/etc"}}
                },
            }
        ],
    ),
    (("binds",), {"/etc": "directory"}),
    (("inspect", "Mounts"), [{"Type": "bind", "Source": "/etc", "Destination": "/x"}]),
]
NAMES: list[tuple[Sequence[Step], Any]] = [
    (("name",), "../volumes/x"),
    (("volumes", 0, "Name"), "../containers/other"),
    (("inspect", "Mounts", 0, "Name"), "../containers/other"),
    (("networks", 0, "Name"), "../containers/other"),
    (("networks", 0, "Name"), "0123456789abcdef" * 4),
    (("image", "tags"), ["../containers/other"]),
    (("image", "name"), "a/../../containers/other"),
    (("image", "id"), "secret"),
    (("devices", "own"), "eth0 up"),
    ((*HOST, "Sysctls"), {"net.core.somaxconn": "1\nkernel/core_pattern=|/x"}),
    ((*HOST, "Sysctls"), {"net/../kernel/core_pattern": "x"}),
    (("binds",), {"/srv/../etc": "directory"}),
    (("binds",), {"/srv/x\npre-xfer exec = id": "directory"}),
    (("bind_files",), [{"path": "/srv/../etc/shadow", "size": 1, "grows": False}]),
]  # fmt: skip


def changed(where: Sequence[Step], value: Any) -> Json:
    wanted: Any = copy.deepcopy(WANTED)
    place = wanted
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    return dict(wanted)


def said(wanted: Json, policy: Policy = STRICT, *, networks: Sequence[str] = ()) -> list[str]:
    """The reasons of what is refused, each of which has the code and a remedy."""
    body = docker_policy.body_of(wanted)
    found = docker_policy.refusals(wanted, body, policy, networks=networks, here="b")
    assert {one.code for one in found} <= {"not-allowed"}
    assert all("p.haul-service" in one.remedy and one.subject for one in found)
    return [one.reason for one in found]


@pytest.fixture(autouse=True)
def with_cgroup_v2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezer, "is_v2", lambda: True)


def test_an_ordinary_container_is_welcome() -> None:
    assert said(WANTED) == []
    assert json.dumps(WANTED)  # nothing has changed it


@pytest.mark.parametrize(("words", "where", "value"), ASKED, ids=[f"{words}-{where[-1]}" for words, where, _ in ASKED])
def test_what_is_asked_is_refused_by_name(words: str, where: Sequence[Step], value: Any) -> None:
    (reason,) = said(changed(where, value))
    assert words in reason, reason
    assert said(changed(where, value), EVERYTHING) == []


@pytest.mark.parametrize(("where", "value"), BOUND, ids=[str(where[-1]) for where, _ in BOUND])
def test_parts_of_the_host_are_refused_or_lie_where_they_may(where: Sequence[Step], value: Any, tmp_path: Path) -> None:
    for policy in (Policy(), Policy(privileged=True), Policy(binds=("/srv/ok",))):
        reasons = said(changed(where, value), policy)
        assert reasons and all("/etc" in reason or "/srv/link" in reason for reason in reasons), reasons
    assert not [reason for reason in said(changed(where, value), Policy(binds=("/",))) if "no directory" in reason]


def test_symlinks_are_followed_before_it_is_asked_where_they_lead(tmp_path: Path) -> None:
    (tmp_path / "ok" / "deep").mkdir(parents=True)
    (tmp_path / "ok" / "out").symlink_to("/etc")
    (tmp_path / "in").symlink_to(tmp_path / "ok")
    policy = Policy(binds=(str(tmp_path / "ok"),))
    allowed = {name: not said(changed((*HOST, "Binds"), [f"{tmp_path}/{name}:/x"]), policy) for name in (
        "ok", "ok/", "ok/deep", "ok/yet/to/be", "in/deep", "ok/out", "ok/out/ssh", "okay", "in/out", "",
    )}  # fmt: skip
    refused = {name for name, sound in allowed.items() if not sound}
    assert refused == {"ok/out", "ok/out/ssh", "okay", "in/out", ""}


@pytest.mark.parametrize(("where", "value"), NAMES, ids=[f"{where[-1]}-{value}"[:40] for where, value in NAMES])
@pytest.mark.parametrize("policy", [Policy(), EVERYTHING], ids=["strict", "everything"])
def test_names_that_would_mean_something_else(where: Sequence[Step], value: Any, policy: Policy) -> None:
    with pytest.raises(ProtocolError, match="which cannot be its name"):
        said(changed(where, value), policy)


def test_networks_that_are_here_are_the_hosts_own_choice() -> None:
    assert said(changed(("networks", 0, "Driver"), "macvlan"), networks=["own"]) == []


def test_a_volume_in_memory_is_no_part_of_the_host() -> None:
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=10m,uid=1000"}
    assert said(changed(("volumes", 0, "Options"), options)) == []


def test_with_cgroup_v1_everybody_has_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezer, "is_v2", lambda: False)
    assert said(changed((*HOST, "CgroupnsMode"), "host")) == []


def test_without_a_limit_a_container_that_is_not_killed_takes_the_host_along() -> None:
    wanted = changed((*HOST, "OomKillDisable"), True)
    assert said(wanted) == []
    wanted["inspect"]["HostConfig"]["Memory"] = 0
    assert ["--oom-kill-disable" in reason for reason in said(wanted)] == [True]


def test_an_addresss_scope_is_no_command() -> None:
    """What ip(8) reads as root has a command in each line."""
    plain = Endpoint("own", "macvlan", ("fe80::1/64",), "", asked=True)
    assert "address add fe80::1/64 dev" in early_commands([plain])
    for scope in ("eth0", "eth0\nnetns add x"):
        with pytest.raises(ValueError, match="has a scope"):
            early_commands([replace(plain, addresses=(f"fe80::1%{scope}/64",))])


def test_everything_at_once() -> None:
    wanted = changed((*HOST, "Privileged"), True)
    wanted["inspect"]["HostConfig"] |= {"PidMode": "host", "Binds": ["/etc:/x", "data:/data"]}
    assert len(said(wanted)) == 3
