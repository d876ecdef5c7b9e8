"""Sockets of tasks: what kinds they have, whom outside they are connected to by name, what they are bound to."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path

from phaul import tasks_seen
from phaul.errors import PhaulError
from phaul.run import run

PROC = tasks_seen.PROC
LISTEN = "0A"
SS_SECONDS = 20


def kinds(pids: list[int]) -> set[str]:
    """Protocols as the kernel names them in the attribute system.sockprotoname: "TCP", "UNIX-STREAM", "MPTCP"."""
    found = set()
    for entry in _descriptors(pids):
        with contextlib.suppress(OSError):
            found.add(os.getxattr(entry, "system.sockprotoname").rstrip(b"\0").decode())
    return found


def inodes(pids: list[int]) -> set[str]:
    found = set()
    for entry in _descriptors(pids):
        with contextlib.suppress(OSError):
            found.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
    return found


def _descriptors(pids: list[int]) -> list[Path]:
    """The entries in their fd directories that are sockets."""
    found = []
    for pid in pids:
        directory = PROC / str(pid) / "fd"
        with contextlib.suppress(OSError):
            for name in os.listdir(directory):
                with contextlib.suppress(OSError):
                    if os.readlink(directory / name).startswith("socket:["):
                        found.append(directory / name)
    return found


def unix_peers(pids: list[int]) -> set[str]:
    """Names of other programs that the tasks are connected to by unix sockets."""
    own = inodes(pids)
    outside = {peer for local, peer in _unix_pairs(pids[0]) if local in own and peer != "0"} - own if own else set()
    if not outside:
        return set()
    others = [int(name) for name in os.listdir(PROC) if name.isdecimal() and int(name) not in pids]
    owners = {pid for pid in others if inodes([pid]) & outside}
    return {status["Name"] for pid in owners if (status := tasks_seen.status_of(pid))}


def _unix_pairs(pid: int) -> list[tuple[str, str]]:
    """Inodes of both ends of the connections in the task's network namespace, as ss(8) lists them."""
    try:
        done = run(["nsenter", "--target", str(pid), "--net", "ss", "-xHna"], timeout=SS_SECONDS, check=False)
    except PhaulError:
        return []
    return [(fields[-3], fields[-1]) for line in done.out.splitlines() if len(fields := line.split()) >= 8]


def serving(pids: list[int]) -> list[tuple[str, str, int]]:
    """What the tasks themselves listen on, or receive datagrams at: protocol, address, port."""
    own, found = inodes(pids), set()
    for name in ("tcp", "tcp6", "udp", "udp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / str(pids[0]) / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                local, remote, state, inode = fields[1], fields[2], fields[3], fields[9]
                connected = remote.partition(":")[0].strip("0")
                if inode in own and (state == LISTEN or (name.startswith("udp") and not connected)):
                    address, _, port = local.partition(":")
                    found.add((name.removesuffix("6"), _address(address), int(port, 16)))
    return sorted(found)


def _address(digits: str) -> str:
    """Words in the byte order of the machine (proc_net_tcp.rst)."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET6 if len(words) > 1 else socket.AF_INET, packed)
