"""What tasks do just now that CRIU cannot dump, whatever they are the tasks of. Reading only."""

from __future__ import annotations

from phaul import task_sockets, tasks_seen
from phaul.errors import Blocker

# What CRIU (4.2) dumps of what the kernel shows as "anon_inode:…", and of the sockets' protocols.
ANONYMOUS = ("eventfd", "eventpoll", "inotify", "fanotify", "signalfd", "timerfd", "pidfd")
SOCKETS = ("TCP", "UDP", "UDP-Lite", "RAW", "PING", "UNIX", "UNIX-STREAM", "NETLINK", "PACKET")
# Other names for what is open, by its beginning.
UNDUMPABLE = {"/dev/fuse": "FUSE connection", "/secretmem": "secret memory"}
IO_URING = "io_uring"
# Of which it dumps one for all tasks.
NAMESPACES = ("pid", "user", "net", "uts", "ipc", "cgroup", "time")


def of_tasks(pids: list[int], what: str) -> list[Blocker]:
    """All of it for these tasks of `what`, "container web" say."""
    statuses = [status for status in map(tasks_seen.status_of, pids) if status]
    found = [*_open(pids, what), *_sockets(pids, what), *_peers(pids, what)]
    return [*found, *_owners(statuses, what), *_halted(statuses, what), *_namespaces(pids, what)]


def _open(pids: list[int], what: str) -> list[Blocker]:
    shown = set().union(*map(tasks_seen.descriptors, pids))
    names = {link.removeprefix("anon_inode:").strip("[]") for link in shown if link.startswith("anon_inode:")}
    names -= set(ANONYMOUS)
    names |= {name for link in shown for start, name in UNDUMPABLE.items() if link.startswith(start)}
    found = []
    if IO_URING in names:
        reason = f"A program in {what} uses io_uring, which CRIU cannot dump"
        found.append(Blocker("io-uring", reason, "turn it off in that program", what))
    for name in sorted(names - {IO_URING}):
        reason = f"A program in {what} has something open that CRIU cannot dump ({name})"
        found.append(Blocker("descriptor", reason, "turn it off in that program", what))
    return found


def _sockets(pids: list[int], what: str) -> list[Blocker]:
    found = []
    for kind in sorted(task_sockets.kinds(pids)):
        if kind.removesuffix("v6") not in SOCKETS:
            reason = f"A program in {what} has a socket of a kind that CRIU cannot dump ({kind})"
            go = " (in Go's programs by GODEBUG=multipathtcp=0)" if kind.startswith("MPTCP") else ""
            found.append(Blocker("socket", reason, f"turn it off in that program{go}", what))
    return found


def _peers(pids: list[int], what: str) -> list[Blocker]:
    peers = sorted(task_sockets.unix_peers(pids))
    if not peers:
        return []
    reason = f"A program in {what} is connected to others on this host by unix sockets ({', '.join(peers[:3])})"
    return [Blocker("unix-socket", reason, "have it close them first: they cannot be made there", what)]


def _owners(statuses: list[dict[str, str]], what: str) -> list[Blocker]:
    foreign = {status["Uid"].split()[0] for status in statuses} - {"0"}
    if not foreign or tasks_seen.have_capability(tasks_seen.CAP_SYS_RESOURCE):
        return []
    reason = f"Tasks of {what} belong to uid {min(foreign)}, and this P.Haul lacks CAP_SYS_RESOURCE to dump them"
    return [Blocker("cap-sys-resource", reason, "run p.haul with all of root's capabilities", what)]


def _halted(statuses: list[dict[str, str]], what: str) -> list[Blocker]:
    halted = [status["Name"] for status in statuses if status["State"][0] in "Tt" or status["TracerPid"] != "0"]
    if not halted:
        return []
    reason = f"Program {halted[0]} in {what} is stopped or traced"
    return [Blocker("task-stopped", reason, "let it continue (kill -CONT) or detach the debugger", what)]


def _namespaces(pids: list[int], what: str) -> list[Blocker]:
    made = [kind for kind in NAMESPACES if len({tasks_seen.namespace(pid, kind) for pid in pids} - {""}) > 1]
    if not made:
        return []
    reason = f"A program in {what} has made namespaces of its own ({', '.join(made)}), which CRIU cannot dump"
    return [Blocker("nested-namespace", reason, "turn off its sandbox, or end it", what)]
