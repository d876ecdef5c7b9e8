"""What a host can do beyond the least, in words, so that a case can say what it needs.

cgroup-v2        the unified hierarchy alone
systemd          it is the first process, and dockerd a unit of its
soft-dirty       the kernel tracks which memory has changed: pre-copy rounds work
non-root-dumps   CRIU can dump processes that are not root's
apparmor         containers have AppArmor's profile
power            the host can be powered off
"""

from __future__ import annotations

from .host import Host

PROBES = {
    "cgroup-v2": "test -e /sys/fs/cgroup/cgroup.controllers",
    "systemd": "test -d /run/systemd/system",
    "soft-dirty": "criu check --feature mem_dirty_track",
    # CAP_SYS_RESOURCE, the 24th
    "non-root-dumps": "test $((0x$(sed -n 's/^CapBnd:\\s*//p' /proc/self/status) >> 24 & 1)) = 1",
    "apparmor": "grep -q . /sys/kernel/security/apparmor/profiles",
}


def of(host: Host) -> frozenset[str]:
    """The words for what the host can do."""
    script = "\n".join(f"({probe}) >/dev/null 2>&1 && echo {word}" for word, probe in PROBES.items())
    words = host.run("sh", "-c", f"{script}\ntrue").out.split()
    return frozenset(words + (["power"] if host.far else []))
