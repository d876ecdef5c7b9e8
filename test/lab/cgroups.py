"""The cgroups that hold a host's processes, in every hierarchy of this machine.

They are also the record of what belongs to an instance: a process that the lab started is in one of
its cgroups whatever else went wrong, so that is where to look for what must be killed.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError
from .waiting import kill_all

PREFIX = "phaul-lab."
# A cgroup v2 namespace's root may not both have processes and hand controllers to its children.
V2_LEAF = "lab-init"
REMOVE_TIMEOUT_S = 30


@dataclass(frozen=True)
class Hierarchy:
    """One mounted cgroup hierarchy; `directory` is its place below /sys/fs/cgroup, "" for the only v2 one."""

    path: Path
    kind: str
    options: str
    directory: str

    @property
    def spec(self) -> str:
        """How host.sh mounts it again inside a host."""
        return f"{self.kind}:{self.options}:{self.directory}"

    @property
    def alone(self) -> bool:
        return not self.directory


def hierarchies() -> list[Hierarchy]:
    """All hierarchies that the machine has mounted, in the order of their mounts."""
    found: dict[Path, Hierarchy] = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind not in {"cgroup", "cgroup2"} or not where.startswith("/sys/fs/cgroup"):
            continue
        path = Path(where)
        if path.is_symlink():
            continue
        ours = "" if kind == "cgroup2" else hierarchy_options(options)
        directory = "" if where == "/sys/fs/cgroup" else path.name
        found[path] = Hierarchy(path=path, kind=kind, options=ours, directory=directory)
    if not found:
        raise LabError("This machine has no cgroups mounted at /sys/fs/cgroup.")
    return list(found.values())


def hierarchy_options(options: str) -> str:
    """What tells one v1 hierarchy from another: its controllers, or its name."""
    generic = {"rw", "ro", "nosuid", "nodev", "noexec", "relatime", "xattr", "clone_children"}
    kept = [
        option for option in options.split(",") if option not in generic and not option.startswith("release_agent=")
    ]
    return ",".join(["none", *kept] if all(option.startswith("name=") for option in kept) else kept)


def make(name: str) -> tuple[Path, ...]:
    """Make the cgroup in every hierarchy. Returns the directories, which a host's first process is born in."""
    groups = []
    for hierarchy in hierarchies():
        group = hierarchy.path / f"{PREFIX}{name}"
        group.mkdir(exist_ok=True)
        if (group / "cpuset.cpus").exists() and hierarchy.kind == "cgroup":
            # A new cpuset is empty, and nothing can join an empty one.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                (group / setting).write_text((hierarchy.path / setting).read_text())
        if hierarchy.alone:
            hand_down_controllers(hierarchy.path)
            (group / V2_LEAF).mkdir(exist_ok=True)
        groups.append(group)
    return tuple(groups)


def hand_down_controllers(root: Path) -> None:
    for controller in (root / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):
            (root / "cgroup.subtree_control").write_text(f"+{controller}")


def entrances(name: str) -> tuple[Path, ...]:
    """The directories that a later process of the host joins."""
    return tuple(
        hierarchy.path / f"{PREFIX}{name}" / (V2_LEAF if hierarchy.alone else "") for hierarchy in hierarchies()
    )


def of_instance(instance: str) -> list[Path]:
    """Every cgroup of the instance's hosts, in all hierarchies."""
    return [group for hierarchy in hierarchies() for group in hierarchy.path.glob(f"{PREFIX}{instance}.*")]


def instances() -> set[str]:
    """The names of all instances that have a cgroup."""
    groups = [group for hierarchy in hierarchies() for group in hierarchy.path.glob(f"{PREFIX}*.*")]
    return {group.name.removeprefix(PREFIX).rpartition(".")[0] for group in groups}


def members(group: Path) -> set[int]:
    """The pids in the cgroup and below it."""
    pids: set[int] = set()
    for listing in [group / "cgroup.procs", *group.rglob("cgroup.procs")]:
        with contextlib.suppress(OSError):
            pids.update(int(pid) for pid in listing.read_text().split() if pid != "0")
    return pids


def thaw(group: Path) -> None:
    """Let frozen tasks below the cgroup run again, whoever froze them."""
    for pattern, text in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        for setting in group.rglob(pattern):
            with contextlib.suppress(OSError):
                setting.write_text(text)


def remove(instance: str) -> None:
    """Kill all processes of the instance and remove its cgroups. Raises LabError if some stay."""
    deadline = time.monotonic() + REMOVE_TIMEOUT_S
    while groups := of_instance(instance):
        for group in groups:
            thaw(group)  # a frozen v1 task does not die
        kill_all(set().union(*(members(group) for group in groups)))
        for group in groups:
            remove_tree(group)
        if time.monotonic() > deadline:
            raise LabError(f"Cannot remove {', '.join(str(group) for group in of_instance(instance))}.")
        if of_instance(instance):
            time.sleep(0.01)  # the last exiting tasks leave their cgroups a moment after they ended


def remove_tree(group: Path) -> None:
    for path in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()
    with contextlib.suppress(OSError):
        group.rmdir()
