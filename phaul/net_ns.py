"""What a container's network namespace has, and a lock on its traffic while its tasks change hosts.

From before the dump until the source copy is dead, and at the target until the release, nothing may
reach the sockets: a kernel acknowledges what it takes in for a frozen task, and it would be lost with
that copy. The lock is a table of our own in the namespace, so that it goes with it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from phaul.errors import HaulFailed
from phaul.run import Done, run

TABLE = "phaul_lock"
FAMILIES = ("inet", "arp")
CHAINS = {"inet": ("prerouting", "output"), "arp": ("input", "output")}
PRIORITY = -500  # before all that others do: connection tracking begins at -400
# The engine fails where it cannot send this for the network that it makes; its ARP passes by all filters.
ADVERTISEMENT = "icmpv6 type nd-neighbor-advert"
SECONDS = 20
# The kernel tells the neighbours of an address when the device's own address is set, to what it is (ip-sysctl.rst,
# arp_notify and ndisc_notify). $0, $1, …: device, its hardware address, and so on.
ANNOUNCE = """
tell() {
    for knob in "ipv4/conf/$1/arp_notify" "ipv6/conf/$1/ndisc_notify"; do
        [ ! -e "/proc/sys/net/$knob" ] || echo "$3" >"/proc/sys/net/$knob"
    done
}
while [ $# -gt 1 ]; do
    tell "$1" "$2" 1
    ip link set dev "$1" address "$2"
    tell "$1" "$2" 0
    shift 2
done
"""


@dataclass(frozen=True)
class Interface:
    """A network device in the namespace; `addresses` without their lengths."""

    name: str
    hardware: str
    addresses: frozenset[str]


def can_lock() -> bool:
    """Whether this host has what a lock needs."""
    return bool(shutil.which("nft", path="/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"))


def interfaces(pid: int) -> list[Interface]:
    """Those of the task's namespace but for the loopback. Raises HaulFailed."""
    said = inside(pid, "ip", "-j", "address").out
    try:
        shown = json.loads(said or "[]")
    except ValueError:  # its programs may have given a device any name
        raise HaulFailed(f"The network devices of process {pid} cannot be listed.", code="network") from None
    return [
        Interface(
            str(one["ifname"]),
            str(one.get("address", "")),
            frozenset(str(address["local"]) for address in one["addr_info"] if "local" in address),
        )
        for one in shown
        if one.get("link_type") != "loopback"
    ]


def lock_rules() -> str:
    """What nft(8) is to read; the same once more changes nothing."""
    lines = [f"add table {family} {TABLE}" for family in FAMILIES]
    for family in FAMILIES:
        for hook in CHAINS[family]:
            rule = f"type filter hook {hook} priority {PRIORITY}; policy drop;"
            lines.append(f"add chain {family} {TABLE} {hook} {{ {rule} }}")
    lines.append(f"add rule inet {TABLE} output {ADVERTISEMENT} accept")
    return unlock_rules() + "\n".join(lines) + "\n"


def unlock_rules() -> str:
    return "".join(f"add table {family} {TABLE}\ndelete table {family} {TABLE}\n" for family in FAMILIES)


def lock(pid: int) -> None:
    """Raises HaulFailed (lock)."""
    _rules(pid, lock_rules(), "locked")


def unlock(pid: int) -> None:
    """Also where it is not locked. Raises HaulFailed (lock)."""
    _rules(pid, unlock_rules(), "unlocked")


def announce(pid: int, addresses: Iterable[str]) -> None:
    """Tell the neighbours that these addresses are here: the devices that have them do. Raises HaulFailed."""
    wanted = set(addresses)
    words = [word for one in interfaces(pid) if one.addresses & wanted for word in (one.name, one.hardware)]
    inside(pid, "sh", "-ec", ANNOUNCE, "sh", *words)


def _rules(pid: int, rules: str, what: str) -> None:
    done = inside(pid, "nft", "-f", "-", input=rules.encode(), check=False)
    if done.code:
        why = next(iter(done.err.splitlines()), done.last_words)  # lines that show where follow
        raise HaulFailed(f"The network of process {pid} could not be {what}: {why}", code="lock", detail=done.err)


def inside(pid: int, *argv: str, input: bytes | None = None, check: bool = True) -> Done:
    """Run a command in the task's network namespace. Raises as run.run does."""
    return run(["nsenter", f"--net=/proc/{pid}/ns/net", *argv], timeout=SECONDS, input=input, check=check)
