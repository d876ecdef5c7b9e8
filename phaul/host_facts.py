"""What this host is and has, for the check that both ends make before anything is touched."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import time
from pathlib import Path

from phaul import codec, dirty, freezer, net_ns, places
from phaul.errors import Blocker, Caution, PhaulError, Refused
from phaul.htype import Capabilities
from phaul.messages_pb2 import HostFacts
from phaul.run import run

# README says which were tried.
MIN_KERNEL = (5, 15)
MIN_CRIU = (4, 1)
MIN_CRIU_FOR_KERNEL = (((6, 16), (4, 2)), ((6, 13), (4, 1)))
MIN_RSYNC = (3, 2)
MIN_RUNC = (1, 1)
SECURITY_MODULES = Path("/sys/kernel/security/lsm")
CLOCK_SECONDS = 5.0
# int() takes no more than so many digits, and a search that fails goes over them again and again.
MAX_VERSION = 200
VERSION = re.compile(r"[0-9]+(?:\.[0-9]+)+")
PYCRIU_MISSING = "The Python module pycriu is not on {host}"
PYCRIU_REMEDY = "install the distribution's package python3-pycriu (it is not on PyPI)"


def version_of(text: str) -> tuple[int, ...]:
    """The first dotted number in the text, as numbers; () where there is none. A peer's text may be anything."""
    found = VERSION.search(text[:MAX_VERSION])
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _tool_version(*argv: str) -> str:
    try:
        return dotted(version_of(run(argv, timeout=20, check=False).out))
    except PhaulError:
        return ""


def gather() -> HostFacts:
    """This host's facts as they are now: a tool may have been upgraded since; takes some tens of ms."""
    able = Capabilities(
        pre_dump=dirty.possible(),
        compare=bool(importlib.util.find_spec("xxhash")),
        post_copy=_has_feature("uffd-noncoop"),
        tcp_keep=net_ns.can_lock(),
        compress=codec.possible(),
    )
    return HostFacts(
        hostname=platform.node(),
        machine=platform.machine(),
        kernel=platform.release(),
        criu=_tool_version("criu", "--version"),
        rsync=_tool_version("rsync", "--version"),
        cgroup_v2=freezer.is_v2(),
        capabilities=able.words(),
        cpu=" ".join(sorted(_cpu_flags())),
        host_id=places.host_id(),
        clock=time.time(),
        security=_security_modules(),
    )


def _security_modules() -> str:
    with contextlib.suppress(OSError):
        return SECURITY_MODULES.read_text().strip()
    return ""


def _has_feature(name: str) -> bool:
    """Whether CRIU and the kernel have it, by CRIU's own word (criu(8), check --feature)."""
    try:
        return run(["criu", "check", "--feature", name], timeout=20, check=False).code == 0
    except PhaulError:
        return False


def _cpu_flags() -> set[str]:
    found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return set(found.group(1).split()) if found else set()


def require_root() -> None:
    """Raises Refused (not-root)."""
    if os.geteuid() != 0:
        raise Refused("P.Haul freezes, dumps and restores processes: run it as root.", code="not-root")


def tool_blockers(facts: HostFacts, where: str) -> list[Blocker]:
    """What is missing or too old on a host of these facts; `where` names the host for people."""
    found = []
    if version_of(facts.kernel) < MIN_KERNEL:
        words = f"Kernel {facts.kernel} on {where} is too old"
        found.append(Blocker("kernel-too-old", words, f"{dotted(MIN_KERNEL)} or newer is needed; upgrade it", where))
    if not facts.rsync or version_of(facts.rsync) < MIN_RSYNC:
        found.append(_tool_blocker("rsync", facts.rsync, MIN_RSYNC, where))
    needed = criu_needed(facts.kernel)
    if not facts.criu or version_of(facts.criu) < needed:
        found.append(_tool_blocker("criu", facts.criu, needed, where, f" with kernel {facts.kernel}"))
    return found


def criu_needed(kernel: str) -> tuple[int, ...]:
    """The oldest CRIU that works on the kernel: newer kernels changed what older CRIUs rely on."""
    running = version_of(kernel)
    for since, criu in MIN_CRIU_FOR_KERNEL:
        if running >= since:
            return criu
    return MIN_CRIU


def _tool_blocker(name: str, seen: str, needed: tuple[int, ...], where: str, why: str = "") -> Blocker:
    if not seen:
        return Blocker(f"{name}-missing", f"{name} is not on {where}", f"install the package {name}", where)
    remedy = f"{dotted(needed)} or newer is needed; upgrade it"
    return Blocker(f"{name}-too-old", f"{name} {seen} on {where} is too old{why}", remedy, where)


def runc_version() -> tuple[int, ...]:
    """That of this host's runc; () where there is none."""
    return version_of(_tool_version("runc", "--version"))


def runc_blockers(where: str, seen: tuple[int, ...]) -> list[Blocker]:
    return [] if seen >= MIN_RUNC else [_tool_blocker("runc", dotted(seen), MIN_RUNC, where)]


def pycriu_blockers(where: str) -> list[Blocker]:
    if importlib.util.find_spec("pycriu"):
        return []
    return [Blocker("pycriu-missing", PYCRIU_MISSING.format(host=where), PYCRIU_REMEDY, where)]


def cpu_blockers(source: HostFacts, target: HostFacts) -> list[Blocker]:
    """CPU features that running code may use by now and that the target's CPU lacks."""
    there = target.hostname
    lacking = sorted(set(source.cpu.split()) - set(target.cpu.split()))
    if source.machine != target.machine:
        reason = f"This host is {source.machine}, {there} is {target.machine}: it cannot run there"
        return [Blocker("architecture", reason, "choose another target", there)]
    if lacking:
        shown = " ".join(lacking[:8]) + (" …" if len(lacking) > 8 else "")
        reason = f"The CPU of {there} lacks features that the program may use ({shown})"
        remedy = "choose another target, or --skip-cpu-check if you know that it does not use them"
        return [Blocker("cpu-features", reason, remedy, there)]
    return []


def cgroup_blockers(source: HostFacts, target: HostFacts) -> list[Blocker]:
    """Tasks see the hierarchies that their host mounts."""
    if source.cgroup_v2 == target.cgroup_v2:
        return []
    here, there = ("v2" if facts.cgroup_v2 else "v1" for facts in (source, target))
    reason = f"This host has cgroup {here}, {target.hostname} has {there}, which the tasks would see change"
    remedy = "boot either with systemd.unified_cgroup_hierarchy=1 (v2), or =0 (v1)"
    return [Blocker("cgroup-version", reason, remedy, target.hostname)]


def older_cautions(source: HostFacts, target: HostFacts) -> list[Caution]:
    """What is older at the target than what the tasks, or their images, have come to know here."""
    there = target.hostname
    found = []
    for name, one, two in (("CRIU", source.criu, target.criu), ("kernel", source.kernel, target.kernel)):
        if version_of(two) < version_of(one) and two:
            found.append(older(name, one, two, there))
    return found


def older(name: str, here: str, there: str, where: str) -> Caution:
    reason = f"{name} {there} on {where} is older than {here} here, and may not restore what that wrote"
    remedy = "upgrade it there; should the restore fail, it runs on here"
    return Caution(f"{name.lower()}-older", f"{reason[0].upper()}{reason[1:]}", remedy, where)


def clock_cautions(source: HostFacts, target: HostFacts, *, seconds: float) -> list[Caution]:
    """A clock that would jump for the tasks; the target's was read `seconds` after this host's at most."""
    apart = target.clock - source.clock
    if -CLOCK_SECONDS <= apart <= CLOCK_SECONDS + seconds:
        return []
    way = "behind" if apart < 0 else "ahead of"
    reason = f"The clock of {target.hostname} is {abs(apart):.0f} s {way} this host's"
    return [Caution("clock", reason, "have NTP set both, or the program sees time jump", target.hostname)]
