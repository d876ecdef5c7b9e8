"""What tasks do just now that CRIU cannot dump, whatever they are the tasks of. Reading only."""

from __future__ import annotations

from phaul import tasks_seen
from phaul.errors import Blocker

# By the beginning of what the kernel shows a descriptor as: code, and what it is.
DESCRIPTORS = {
    "anon_inode:[io_uring]": ("io-uring", "io_uring"),
    "anon_inode:[userfaultfd]": ("descriptor", "userfaultfd"),
    "anon_inode:[perf_event]": ("descriptor", "perf_event_open"),
    "anon_inode:kvm-": ("descriptor", "KVM"),
    "anon_inode:seccomp notify": ("descriptor", "the supervision of others by seccomp"),
    "anon_inode:[fscontext]": ("descriptor", "fsopen"),
    "anon_inode:[landlock-ruleset]": ("descriptor", "a Landlock ruleset that it has not applied"),
    "/dev/fuse": ("descriptor", "FUSE"),
}
NAMESPACES = ("pid", "user")


def of_tasks(pids: list[int], what: str) -> list[Blocker]:
    """All of it for these tasks of `what`, "container web" say."""
    statuses = {pid: status for pid in pids if (status := tasks_seen.status_of(pid))}
    return [*_descriptors(pids, what), *_owners(statuses, what), *_halted(statuses, what), *_namespaces(pids, what)]


def _descriptors(pids: list[int], what: str) -> list[Blocker]:
    found = {}
    for shown in {shown for pid in pids for shown in tasks_seen.descriptors(pid)}:
        for beginning, (code, name) in DESCRIPTORS.items():
            if shown.startswith(beginning):
                reason = f"A program in {what} uses {name}, which CRIU cannot dump"
                found[name] = Blocker(code, reason, "turn it off in that program", what)
    return list(found.values())


def _owners(statuses: dict[int, dict[str, str]], what: str) -> list[Blocker]:
    foreign = {status["Uid"].split()[0] for status in statuses.values()} - {"0"}
    if not foreign or tasks_seen.have_capability(tasks_seen.CAP_SYS_RESOURCE):
        return []
    reason = f"Tasks of {what} belong to uid {min(foreign)}, and this P.Haul lacks CAP_SYS_RESOURCE to dump them"
    return [Blocker("cap-sys-resource", reason, "run p.haul with all capabilities of root", what)]


def _halted(statuses: dict[int, dict[str, str]], what: str) -> list[Blocker]:
    halted = [
        status["Name"] for status in statuses.values() if status["State"][0] in "Tt" or status["TracerPid"] != "0"
    ]
    if not halted:
        return []
    reason = f"Program {halted[0]} in {what} is stopped or traced"
    return [Blocker("task-stopped", reason, "let it continue (kill -CONT) or detach the debugger", what)]


def _namespaces(pids: list[int], what: str) -> list[Blocker]:
    """CRIU dumps one pid and one user namespace."""
    for kind in NAMESPACES:
        if len({name for pid in pids if (name := tasks_seen.namespace(pid, kind))}) > 1:
            reason = f"A program in {what} has made a {kind} namespace of its own, which CRIU cannot dump"
            return [Blocker("nested-namespace", reason, "turn off its sandbox, or end it", what)]
    return []
