"""Sockets of tasks: what kinds they have, and whom outside they are connected to, by name."""

from __future__ import annotations

import contextlib
import os

from phaul import net_ns, sockets_seen, tasks_seen
from phaul.errors import PhaulError

PROC = tasks_seen.PROC


def kinds(pids: list[int]) -> set[str]:
    """Protocols as the kernel names them in the attribute system.sockprotoname: "TCP", "UNIX-STREAM", "MPTCP"."""
    found = set()
    for entry in sockets_seen.descriptors(pids):
        with contextlib.suppress(OSError):
            found.add(os.getxattr(entry, "system.sockprotoname").rstrip(b"\0").decode())
    return found


def unix_peers(pids: list[int]) -> set[str]:
    """Names of other programs that the tasks are connected to by unix sockets."""
    own = sockets_seen.inodes(pids)
    outside = {peer for local, peer in _unix_pairs(pids[0]) if local in own and peer} - own if own else set()
    if not outside:
        return set()
    others = [int(name) for name in os.listdir(PROC) if name.isdecimal() and int(name) not in pids]
    owners = {pid for pid in others if sockets_seen.inodes([pid]) & outside}
    return {status["Name"] for pid in owners if (status := tasks_seen.status_of(pid))}


def _unix_pairs(pid: int) -> list[tuple[int, int]]:
    """Inodes of both ends of the connections in the task's network namespace, as ss(8) lists them; 0: none."""
    try:
        done = net_ns.inside(pid, "ss", "-xHna", check=False)
    except PhaulError:
        return []
    ends = [(fields[-3], fields[-1]) for line in done.out.splitlines() if len(fields := line.split()) >= 8]
    return [(int(local), int(peer)) for local, peer in ends if local.isdecimal() and peer.isdecimal()]
