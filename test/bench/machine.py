"""The machine and the versions that figures were measured with."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path

from lab import Host

VERSIONS = {
    "CRIU": ("criu", "--version"),
    "runc": ("runc", "--version"),
    "Docker": ("docker", "version", "--format", "{{.Server.Version}}"),
    "Podman": ("podman", "--version"),
    "P.Haul": ("p.haul", "--version"),
}


def describe(host: Host) -> dict[str, str]:
    """What README and the table say."""
    facts = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": f"{os.cpu_count()} x {processor()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB",
        "kernel": platform.release(),
    }
    for name, command in VERSIONS.items():
        done = host.run(*command, check=False)
        if done.code == 0 and (found := re.search(r"\d[\w.+~-]*", done.out)):
            facts[name] = found[0]
    return facts


def processor() -> str:
    """Its name, as the kernel has it."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()
