"""What the target's engine and host are, held against what the container has got to know at the source. Reading only.

Shapes: SystemInfo and SystemVersion of the engine's API (https://docs.docker.com/reference/api/engine/).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phaul import docker_config, host_facts
from phaul.docker_api import Engine
from phaul.errors import Blocker, Finding
from phaul.host_facts import version_of

Json = dict[str, Any]

APPARMOR = Path("/sys/kernel/security/apparmor/profiles")
SYSCTLS = Path("/proc/sys")
ENGINE, CONTAINERD, RUNC = "Docker", "containerd", "runc"
STORAGE, SECURITY, LOGS = "storage", "security", "logs"
UNCONFINED = {"seccomp=unconfined", "seccomp:unconfined"}
RUNTIME_FILES = ("shim.py", "hold.sh", "criu_inside.pl")


def facts(engine: Engine, info: Json, runc: tuple[int, ...]) -> dict[str, str]:
    """What people want to know of an engine, and what the other host's check compares."""
    parts = {part["Name"]: part["Version"] for part in engine.version().get("Components") or []}
    return {
        ENGINE: info["ServerVersion"],
        CONTAINERD: parts.get("containerd", ""),
        RUNC: host_facts.dotted(runc),
        STORAGE: info["Driver"],
        "cgroup driver": info.get("CgroupDriver", ""),
        SECURITY: " ".join(sorted(security(info))),
        LOGS: info.get("LoggingDriver", ""),
    }


def security(info: Json) -> set[str]:
    """Names of what the engine confines containers by: seccomp, apparmor, selinux, userns, rootless, cgroupns."""
    return {option.partition(",")[0].removeprefix("name=") for option in info.get("SecurityOptions") or []}


def of_engine(info: Json, inspect: Json, source: dict[str, str], here: str, runc: tuple[int, ...]) -> list[Finding]:
    """`source` is what facts() said at the source, `runc` this host's version of it."""
    found: list[Finding] = [*_processors(info, inspect, here), *_sysctls(inspect, here), *_logging(info, inspect, here)]
    found += [*_runtime(info, here), *_confinement(info, inspect, source, here), *_profile(inspect, here)]
    there = {ENGINE: info["ServerVersion"], RUNC: host_facts.dotted(runc)}
    for name, seen in there.items():
        if seen and version_of(seen) < version_of(source.get(name, "")):
            found.append(host_facts.older(name, source[name], seen, here))
    return found


def _processors(info: Json, inspect: Json, here: str) -> list[Blocker]:
    """The engine refuses to create what asks for more than it has."""
    host, count = inspect["HostConfig"], int(info["NCPU"])
    wanted = int(host.get("NanoCpus") or 0) / 1e9
    numbers = [int(word) for word in host.get("CpusetCpus", "").replace("-", ",").split(",") if word]
    if wanted <= count and max(numbers, default=0) < count:
        return []
    asked = f"--cpuset-cpus {host['CpusetCpus']}" if numbers else f"--cpus {wanted:g}"
    reason = f"{here} has {count} processor{'s' * (count != 1)}, the container was run with {asked}"
    return [Blocker("cpus", reason, "ask for less (docker update), or choose another target", here)]


def _sysctls(inspect: Json, here: str) -> list[Blocker]:
    """Those of the container's own namespaces, which the kernel shows to the host as well."""
    wanted = inspect["HostConfig"].get("Sysctls") or {}
    return [
        Blocker("sysctl", f"The kernel of {here} has no {name}", "load the module that has it, or run it without", here)
        for name in wanted
        if not (SYSCTLS / name.replace(".", "/")).exists()
    ]


def _logging(info: Json, inspect: Json, here: str) -> list[Blocker]:
    driver = inspect["HostConfig"]["LogConfig"]["Type"]
    if driver in info["Plugins"]["Log"] or driver == "none":
        return []
    return [Blocker("log-driver", f"The engine of {here} has no log driver {driver}", "install it there", here)]


def _runtime(info: Json, here: str) -> list[Blocker]:
    """The engine keeps what was installed by `p.haul-service setup`, of whatever version that was."""
    known = info["Runtimes"].get(docker_config.RUNTIME)
    if not known:
        return []
    for name in RUNTIME_FILES:
        installed = Path(known["path"]).with_name(name)
        if not installed.exists() or installed.read_bytes() != Path(__file__).with_name(name).read_bytes():
            reason = f"The restore runtime on {here} ({installed}) is not that of the P.Haul there"
            return [Blocker("runtime-outdated", reason, "run p.haul-service setup there again", here)]
    return []


def _confinement(info: Json, inspect: Json, source: dict[str, str], here: str) -> list[Blocker]:
    there, was = security(info), set(source.get(SECURITY, "").split())
    host, found = inspect["HostConfig"], []
    mapped = {"userns", "rootless"} & (there | was)
    if mapped and host.get("UsernsMode") != "host":
        reason = f"An engine keeps its containers in user namespaces ({', '.join(sorted(mapped))})"
        remedy = "run it with --userns host: files would come with users of the other host's numbers"
        found.append(Blocker("userns", reason, remedy, here if mapped & there else "this host"))
    if "seccomp" in was - there and not UNCONFINED & set(host.get("SecurityOpt") or []):
        reason = f"The container is confined by seccomp, which the engine of {here} is without"
        found.append(Blocker("seccomp", reason, "choose another target, or run it unconfined", here))
    if "apparmor" in was - there and inspect.get("AppArmorProfile") not in (None, "", "unconfined"):
        reason = f"The container is confined by AppArmor, which the engine of {here} is without"
        remedy = "choose another target, or run it with --security-opt apparmor=unconfined"
        found.append(Blocker("apparmor", reason, remedy, here))
    if "selinux" in was ^ there:
        reason = "SELinux confines containers on one of the hosts alone"
        found.append(Blocker("selinux", reason, "set selinux-enabled alike in both engines' daemon.json", here))
    return found


def unconfined(info: Json, inspect: Json, source: dict[str, str], here: str) -> list[Blocker]:
    """What the engine here confines containers by and the source's has not: tasks come as they are."""
    there, was = security(info), set(source.get(SECURITY, "").split())
    lax, found = set(inspect["HostConfig"].get("SecurityOpt") or []), []
    for name, words in (("seccomp", "seccomp"), ("apparmor", "AppArmor")):
        if name in there - was and not {f"{name}=unconfined", f"{name}:unconfined"} & lax:
            reason = f"The container runs without {words}, by which the engine of {here} confines its own"
            remedy = "start it anew there, or start p.haul-service there with --allow-privileged"
            found.append(Blocker(name, reason, remedy, here))
    return found


def _profile(inspect: Json, here: str) -> list[Blocker]:
    profile = inspect.get("AppArmorProfile") or ""
    if profile in ("", "unconfined", "docker-default") or not APPARMOR.exists():
        return []
    if any(line.startswith(f"{profile} (") for line in APPARMOR.read_text().splitlines()):
        return []
    reason = f"The AppArmor profile {profile} is not loaded on {here}"
    return [Blocker("apparmor", reason, "load it there (apparmor_parser)", here)]
