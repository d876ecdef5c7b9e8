"""What a container that comes may ask of this host: each field of what the engine is to make it from, one by one.

By allow lists: a field that is not known here is refused by its name where it says anything, and so is another
spelling of one that is, since the engine takes names in any case. Shapes: engine API 1.44 to 1.52, ContainerCreate
(moby: api/types/container, hostconfig.go and config.go).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from phaul import docker_config, docker_names, docker_policy_mounts, docker_policy_networks, freezer, policy
from phaul.docker_names import name_set
from phaul.errors import Blocker
from phaul.policy import Policy

Json = dict[str, Any]

CONFIG = name_set(
    "Hostname Domainname User AttachStdin AttachStdout AttachStderr ExposedPorts Tty OpenStdin StdinOnce Env Cmd "
    "Healthcheck ArgsEscaped Image Volumes WorkingDir Entrypoint NetworkDisabled MacAddress OnBuild Labels StopSignal "
    "StopTimeout Shell HostConfig NetworkingConfig"
)
# Of the container's own: limits, names, what it sees of itself.
HARMLESS = name_set(
    "AutoRemove BlkioDeviceReadBps BlkioDeviceReadIOps BlkioDeviceWriteBps BlkioDeviceWriteIOps BlkioWeight "
    "BlkioWeightDevice CapDrop ConsoleSize ContainerIDFile CpuPeriod CpuQuota CpuShares CpusetCpus CpusetMems Dns "
    "DnsOptions DnsSearch ExtraHosts GroupAdd Init KernelMemory KernelMemoryTCP Memory MemoryReservation MemorySwap "
    "MemorySwappiness NanoCpus PidsLimit PortBindings PublishAllPorts ReadonlyRootfs RestartPolicy ShmSize "
    "Tmpfs"
)
# What docker_policy_mounts and docker_policy_networks judge.
ELSEWHERE = frozenset(("Binds", "Mounts", "NetworkMode"))
# What the engine gives each container (moby: oci/caps/defaults.go).
CAPABILITIES = name_set(
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
    "AUDIT_WRITE"
)
SECURITY = name_set(
    "no-new-privileges no-new-privileges:true no-new-privileges:false no-new-privileges=true no-new-privileges=false "
    "seccomp=builtin seccomp:builtin apparmor=docker-default apparmor:docker-default"
)
LOG_DRIVERS = ("", "json-file", "local", "journald", "none")
# Not nice, rtprio, rttime: they rank it above the host's own.
LIMITS = name_set("as core cpu data fsize locks memlock msgqueue nofile nproc rss sigpending stack")
# The kernel keeps these for each IPC or network namespace, which the container has of its own.
SYSCTLS = re.compile(r"net\.\S+|fs\.mqueue\.\w+|kernel\.(msg(max|mnb|mni)|sem|shm(all|max|mni|_rmid_forced))")
# Without these a container reads the host's memory and keys, or sets the host's kernel (moby: oci/defaults.go, 26.1).
MASKED = name_set(
    "/proc/acpi /proc/asound /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi /proc/timer_list "
    "/sys/firmware"
)
READONLY = name_set("/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger")


def refusals(wanted: Json, body: Json, allowed: Policy, *, networks: Collection[str], here: str) -> list[Blocker]:
    """What of it this host's policy speaks against: of the document that the source sent, and of `body`, which is
    what the engine is told. `networks` are the names of those that are here, `here` is this host for people.

    Raises ProtocolError, and ValueError, KeyError, TypeError or AttributeError where the document is none.
    """
    docker_names.must_be_sound(wanted)
    found = []
    if not allowed.privileged:
        asked = dict.fromkeys([*_of_config(body), *_of_host(body["HostConfig"])])
        found = [policy.asks(wanted["name"], words, here) for words in asked]
        found += docker_policy_networks.refusals(wanted, body, networks=networks, here=here)
    return [*found, *docker_policy_mounts.refusals(wanted, body["HostConfig"], allowed, here=here)]


def body_of(wanted: Json) -> Json:
    """What the engine would be told, but for the image's reference and addresses."""
    return docker_config.create_body(wanted["inspect"], "")


def _of_config(body: Json) -> Iterator[str]:
    yield from _unknown(body, CONFIG)


def _of_host(host: Json) -> Iterator[str]:
    """What is asked for and not harmless, in the words of docker run where it has some."""
    yield from _unknown(host, HARMLESS | ELSEWHERE | JUDGED.keys())
    for field, judge in JUDGED.items():
        if host.get(field) is not None:
            yield from judge(host[field])
    limit = host.get("Memory")
    if host.get("OomKillDisable") and not limit:
        yield "--oom-kill-disable without --memory"


def _unknown(fields: Json, known: Collection[str]) -> Iterator[str]:
    spelt = {name.lower() for name in known}
    for name, value in fields.items():
        if name not in known and (value or name.lower() in spelt):
            yield f"{_short(name)}={_short(value)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _never(words: str) -> Callable[[Any], Iterator[str]]:
    def judge(value: Any) -> Iterator[str]:
        if value:
            yield words.format(_short(value))

    return judge


def _one_of(words: str, *values: str) -> Callable[[Any], Iterator[str]]:
    def judge(value: Any) -> Iterator[str]:
        if value not in values:
            yield words.format(_short(value))

    return judge


def _each(words: str, sound: Callable[[str], bool]) -> Callable[[Any], Iterator[str]]:
    """Of a list, or of the names in a table."""

    def judge(values: Any) -> Iterator[str]:
        yield from (words.format(_short(value)) for value in values if not sound(value))

    return judge


def _cgroupns(value: str) -> Iterator[str]:
    """With cgroup v1 the host's is what the engine gives everybody."""
    if value not in ("", "private") and not (value == "host" and not freezer.is_v2()):
        yield f"--cgroupns {_short(value)}"


def _oom(value: int) -> Iterator[str]:
    if value < 0:
        yield f"--oom-score-adj {value}"


def _logging(value: Json) -> Iterator[str]:
    yield from _unknown(value, ("Type", "Config"))
    if value.get("Type") not in LOG_DRIVERS:
        yield f"--log-driver {_short(value.get('Type'))}"


def _limits(values: list[Json]) -> Iterator[str]:
    for value in values:
        yield from _unknown(value, ("Name", "Hard", "Soft"))
        if value["Name"] not in LIMITS:
            yield f"--ulimit {_short(value['Name'])}"


def _covering(words: str, needed: Collection[str]) -> Callable[[Any], Iterator[str]]:
    """An empty list is what takes the protection away; none at all is the engine's own."""

    def judge(values: Any) -> Iterator[str]:
        if lacking := sorted(set(needed) - set(values)):
            yield f"{words} ({lacking[0]} is not protected)"

    return judge


JUDGED: dict[str, Callable[[Any], Iterator[str]]] = {
    "Annotations": _never("--annotation {}"),
    "CapAdd": _each("--cap-add {}", lambda name: name.upper().removeprefix("CAP_") in CAPABILITIES),
    "Cgroup": _never("the cgroup {}"),
    "CgroupParent": _never("--cgroup-parent {}"),
    "CgroupnsMode": _cgroupns,
    "CpuCount": _never("a count of processors"),
    "CpuPercent": _never("a percentage of processors"),
    "CpuRealtimePeriod": _never("--cpu-rt-period {}"),
    "CpuRealtimeRuntime": _never("--cpu-rt-runtime {}"),
    "DeviceCgroupRules": _never("--device-cgroup-rule"),
    "DeviceRequests": _never("--gpus, or other devices"),
    "Devices": _never("--device"),
    "IOMaximumBandwidth": _never("a bandwidth of its disk"),
    "IOMaximumIOps": _never("a rate of its disk"),
    "IpcMode": _one_of("--ipc {}", "", "none", "private", "shareable"),
    "Isolation": _one_of("--isolation {}", "", "default"),
    "Links": _never("--link"),
    "LogConfig": _logging,
    "MaskedPaths": _covering("--security-opt systempaths=unconfined", MASKED),
    "OomKillDisable": lambda _: iter(()),  # with the limit of its memory
    "OomScoreAdj": _oom,
    "PidMode": _never("--pid {}"),
    "Privileged": _never("--privileged"),
    "ReadonlyPaths": _covering("--security-opt systempaths=unconfined", READONLY),
    "Runtime": _one_of("--runtime {}", docker_config.RUNTIME),
    "SecurityOpt": _each("--security-opt {}", SECURITY.__contains__),
    "StorageOpt": _each("--storage-opt {}", ("size",).__contains__),
    "Sysctls": _each("--sysctl {}", lambda name: bool(SYSCTLS.fullmatch(name))),
    "UTSMode": _never("--uts {}"),
    "Ulimits": _limits,
    "UsernsMode": _never("--userns {}"),
    "VolumeDriver": _one_of("--volume-driver {}", "", "local"),
    "VolumesFrom": _never("--volumes-from"),
}
