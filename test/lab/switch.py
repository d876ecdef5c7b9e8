"""The network between the hosts of one instance: a bridge in a network namespace of its own.

Nothing of it is in the machine's own namespace, so instances cannot collide, no lab traffic can leave,
and when the last process of an instance is gone the kernel removes the network with it.
"""

from __future__ import annotations

import subprocess
import zlib

from .errors import LabError

BRIDGE = "lab"


def subnet(instance: str) -> str:
    """The first three numbers of the instance's addresses."""
    return f"10.77.{zlib.crc32(instance.encode()) % 253 + 1}"


def ip(pid: int, *commands: str) -> None:
    """Run ip(8) commands in the network namespace of that process."""
    argv = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-batch", "-"]
    done = subprocess.run(argv, input="\n".join(commands), capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise LabError(f"ip: {'; '.join(commands)}: {done.stderr.strip()}")


def start(switch: int) -> None:
    ip(switch, f"link add dev {BRIDGE} type bridge", f"link set dev {BRIDGE} up", "link set lo up")


def plug(switch: int, host: int, name: str, address: str) -> None:
    """Connect a host: its eth0 gets the address, its port on the switch is called after it."""
    ip(switch, f"link add dev {name} type veth peer name eth0 netns {host}", f"link set dev {name} master {BRIDGE} up")
    ip(host, "link set lo up", f"address add {address}/24 dev eth0", "link set eth0 up")


def set_link(switch: int, name: str, *, up: bool) -> None:
    ip(switch, f"link set dev {name} {'up' if up else 'down'}")
