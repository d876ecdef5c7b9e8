"""What a host holds, in numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from lab import Host, residue

from .bed import Bed

Figures = dict[str, float]
# What is written down of each haul stays until there is more of it than P.Haul keeps (journal.KEEP): bytes, files.
KEPT = {"journals", "logs"}
BYTES = {"service PSS", "service RSS", "guard PSS", "logs"}


def at(bed: Bed, host: Host) -> Figures:
    """By the name of what is counted; memory and logs are in bytes."""
    service = Path(f"/proc/{bed.services[host.name].pid}")
    held = residue.residue(host)
    guards = [path for path in processes(host, b"phaul.guard") if parent(path) == service.name]
    return {
        "service descriptors": len(os.listdir(service / "fd")),
        "service threads": len(os.listdir(service / "task")),
        "service PSS": pss(service),
        "service RSS": field(service / "status", "VmRSS:"),
        "guard PSS": sum(pss(guard) for guard in guards),
        "processes": len(held.processes),
        "containers": len(held.containers),
        "mounts": len(held.mounts),
        "cgroups": len(held.cgroups),
        "interfaces": len(held.interfaces),
        "network namespaces": len(list(host.path("/run/docker/netns").iterdir())),
        "firewall rules": len(held.firewall),
        "images": len(held.images),
        "volumes": len(held.volumes),
        "networks": len(held.networks),
        "runtime states": len(held.runtimes),
        "work": entries(host, "/var/lib/phaul/work"),
        "run": entries(host, "/run/phaul"),
        "journals": entries(host, "/var/lib/phaul/journal"),
        "logs": sum(path.stat().st_size for path in host.path("/var/log/phaul").rglob("*") if path.is_file()),
    }


def entries(host: Host, place: str) -> int:
    return sum(1 for _ in host.path(place).rglob("*"))


def processes(host: Host, words: bytes) -> list[Path]:
    """The /proc directories, as this machine has them, of the host's processes with these words in their command."""
    found: list[Path] = []
    for group in host.cgroups[:1]:
        for pid in (group / "cgroup.procs").read_text().split():
            path = Path(f"/proc/{pid}")
            quietly(lambda path=path: words in (path / "cmdline").read_bytes() and found.append(path))
    return found


def quietly(look: Callable[[], object]) -> None:
    try:
        look()
    except OSError:
        pass


def parent(process: Path) -> str:
    return (process / "stat").read_text().rpartition(")")[2].split()[1]


def pss(process: Path) -> int:
    """Bytes of memory, what is shared with others being divided among them."""
    return field(process / "smaps_rollup", "Pss:")


def field(file: Path, name: str) -> int:
    """A size in /proc, in bytes."""
    return next(int(line.split()[1]) << 10 for line in file.read_text().splitlines() if line.startswith(name))
