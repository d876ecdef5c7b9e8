"""A slow, long link between two hosts: a rate by tbf, a delay by a process that carries the frames (guest/delay.c)."""

from __future__ import annotations

import contextlib
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

from . import cgroups, spawning, switch, tools
from .errors import LabError
from .instance import Lab

BURST = "256kb"  # whole offloaded frames pass
LATENCY = "100ms"  # what may wait in the queue: more than what is on the way at once
START_TIMEOUT_S = 10


@contextlib.contextmanager
def link(lab: Lab, *, mbit: int, round_trip_ms: float) -> Iterator[None]:
    """Both hosts of the lab have such a link to each other until the end of the block."""
    ports = [host.name for host in lab.hosts]
    switch.ip(lab.switch, *(f"link set dev {port} nomaster" for port in ports))
    try:
        with carrier(lab, ports, round_trip_ms / 2), contextlib.ExitStack() as limits:
            for host in lab.hosts:
                rate = ("root", "tbf", "rate", f"{mbit}mbit", "burst", BURST, "latency", LATENCY)
                host.run("tc", "qdisc", "add", "dev", "eth0", *rate)
                limits.callback(host.run, "tc", "qdisc", "del", "dev", "eth0", "root", check=False)
            yield
    finally:
        switch.ip(lab.switch, *(f"link set dev {port} master {switch.BRIDGE}" for port in ports))


@contextlib.contextmanager
def carrier(lab: Lab, ports: list[str], delay_ms: float) -> Iterator[None]:
    """It runs in the switch's network and cgroups, so that whoever removes the lab ends it too."""
    groups = cgroups.entrances(f"{lab.instance}.{spawning.SWITCH}")
    command = ["nsenter", f"--net=/proc/{lab.switch}/ns/net", tools.directory() / "delay", *ports, str(delay_ms)]
    process = subprocess.Popen(
        ["sh", "-ec", spawning.JOIN, "sh", *map(str, command)],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LAB_CGROUPS": " ".join(map(str, groups))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=Path("/"),
    )
    assert process.stdout is not None
    try:
        readable, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
        said = process.stdout.readline() if readable else b""
        if said != spawning.READY:
            raise LabError(f"The link's delay does not start: {said.decode(errors='replace').strip()}")
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
