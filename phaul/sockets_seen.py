"""The internet sockets of a network namespace, as /proc/<pid>/net shows them (proc_net_tcp.rst of the kernel)."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TCP, UDP = ("tcp", "tcp6"), ("udp", "udp6")
OTHERS = (*UDP, "udplite", "udplite6", "raw", "raw6")
SYN_RECV, TIME_WAIT, LISTEN = "03", "06", "0A"
_IN_USE = re.compile(r"^(\w+): inuse (\d+)", re.MULTILINE)
_SOCKET = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True)
class End:
    """An address and a port; IPv4 within IPv6 is IPv4."""

    address: str
    port: int

    @property
    def loopback(self) -> bool:
        return ipaddress.ip_address(self.address).is_loopback

    @property
    def anywhere(self) -> bool:
        return ipaddress.ip_address(self.address).is_unspecified

    @property
    def own(self) -> bool:
        """Whether a device must have the address for a socket to be bound to it."""
        return not (self.loopback or self.anywhere or ipaddress.ip_address(self.address).is_multicast)

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Socket:
    """One line of a table; `state` is the kernel's number for it, `queue` what waits to be read or accepted."""

    table: str
    local: End
    remote: End
    state: str
    queue: int
    inode: int

    @property
    def connection(self) -> bool:
        return self.table in TCP and self.state not in (LISTEN, TIME_WAIT)

    @property
    def outside(self) -> bool:
        """Whether it is a connection that leaves the loopback."""
        return self.connection and not (self.local.loopback and self.remote.loopback)

    def __str__(self) -> str:
        return f"{self.local} - {self.remote}"


def of(pid: int) -> list[Socket]:
    """Those of the task's network namespace, but for TCP's in TIME_WAIT alone; none where the task is gone."""
    found = []
    for table in _used(pid):
        with contextlib.suppress(OSError):
            lines = (PROC / str(pid) / "net" / table).read_text().splitlines()[1:]
            found += [_read(table, line.split()) for line in lines]
    return found


def _used(pid: int) -> list[str]:
    """The tables in which there is anything: of TCP's the kernel looks through all buckets of the host, for 5 ms."""
    counts: dict[str, int] = {}
    for name in ("sockstat", "sockstat6"):
        with contextlib.suppress(OSError):
            text = (PROC / str(pid) / "net" / name).read_text()
            counts |= {kind.lower(): int(count) for kind, count in _IN_USE.findall(text)}
    return [table for table in (*TCP, *OTHERS) if counts.get(table, 1)]


def of_tasks(pids: Iterable[int]) -> list[Socket]:
    """Those that the tasks themselves have open, where their namespace is others' as well."""
    wanted = list(pids)
    own = inodes(wanted)
    return [socket for socket in of(wanted[0]) if socket.inode in own] if wanted else []


def serving(pids: Iterable[int]) -> list[tuple[str, str, int]]:
    """What the tasks themselves listen on, or receive datagrams at: protocol, address, port."""
    return sorted(
        {
            (socket.table.removesuffix("6"), socket.local.address, socket.local.port)
            for socket in of_tasks(pids)
            if (socket.table in TCP and socket.state == LISTEN) or (socket.table in UDP and socket.remote.anywhere)
        }
    )


def inside(sockets: Iterable[Socket]) -> int:
    """How many are connected over the loopback."""
    return sum(socket.connection and not socket.outside for socket in sockets)


def outside(sockets: Iterable[Socket]) -> list[Socket]:
    """Connections to peers elsewhere, or to an address of the namespace that is not the loopback's."""
    return [socket for socket in sockets if socket.outside]


def bound(sockets: Iterable[Socket]) -> set[str]:
    """Addresses that must be there for the sockets to be made anew."""
    ends = [socket.local for socket in sockets if not (socket.table in TCP and socket.state == TIME_WAIT)]
    return {end.address for end in ends if end.own}


def arriving(sockets: Iterable[Socket]) -> bool:
    """Whether a connection is about to be made, or waits to be accepted: no task has it yet."""
    return any(
        socket.table in TCP and (socket.state == SYN_RECV or (socket.state == LISTEN and socket.queue))
        for socket in sockets
    )


def _read(table: str, fields: list[str]) -> Socket:
    """All have the same columns: sl, local, remote, st, tx:rx, tr:when, retrnsmt, uid, timeout, inode."""
    queue = fields[4].partition(":")[2] if len(fields) > 4 else ""
    inode = fields[9] if len(fields) > 9 else "0"
    return Socket(table, _end(fields[1]), _end(fields[2]), fields[3], int(queue or "0", 16), int(inode))


def _end(text: str) -> End:
    """An address is written as words of 32 bits, each in the machine's byte order."""
    words, _, port = text.partition(":")
    raw = b"".join(bytes.fromhex(words[start : start + 8])[::-1] for start in range(0, len(words), 8))
    address = ipaddress.ip_address(raw)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return End(str(mapped or address), int(port, 16))


def inodes(pids: Iterable[int]) -> set[int]:
    """Of all sockets that the tasks have open, of whatever kind."""
    found = set()
    for entry in descriptors(pids):
        with contextlib.suppress(OSError):
            if seen := _SOCKET.fullmatch(os.readlink(entry)):
                found.add(int(seen[1]))
    return found


def descriptors(pids: Iterable[int]) -> Iterator[Path]:
    """The entries in the tasks' fd directories that are sockets."""
    for pid in pids:
        directory = PROC / str(pid) / "fd"
        with contextlib.suppress(OSError):
            for name in os.listdir(directory):
                with contextlib.suppress(OSError):
                    if _SOCKET.fullmatch(os.readlink(directory / name)):
                        yield directory / name
