"""Connections on whole machines: their kernels have ipvlan, their containers' cgroups are systemd's."""

from __future__ import annotations

import json

import pytest
from hauling import haul, inspect, wait_for
from lab import Host
from lab.vm import VmLab
from lab.workloads import file_in

pytestmark = [pytest.mark.vm, pytest.mark.long, pytest.mark.timeout(900)]

PORT = "7000"
SENDS = f"n=0; while :; do n=$((n+1)); echo $n; sleep 0.1; done | nc $SERVER {PORT} >/got"


def link(host: Host) -> str:
    """The device that has the host's own address."""
    shown = json.loads(host.run("ip", "-j", "address").out)
    return next(str(one["ifname"]) for one in shown if any(had.get("local") == host.ip for had in one["addr_info"]))


def echoed(host: Host, name: str) -> list[int]:
    """The numbers that came back, in whole lines."""
    whole, _, _ = file_in(host, name, "/got").decode().rpartition("\n")
    return [int(line) for line in whole.splitlines()]


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_a_connection_goes_on(served: VmLab, driver: str) -> None:
    """What a container of b sends to one that comes there from a comes back to it, all the time."""
    a, b = served.hosts
    subnet = a.ip.rpartition(".")[0]
    for host in served.hosts:
        options = ("-o", f"parent={link(host)}", "--subnet", f"{subnet}.0/24")
        host.docker("network", "create", "-d", driver, *options, "shared")
    server, client = f"{subnet}.50", f"{subnet}.51"
    a.docker(
        "run",
        "-d",
        "--name",
        "echo",
        "--network",
        "shared",
        "--ip",
        server,
        "busybox",
        "nc",
        "-l",
        "-p",
        PORT,
        "-e",
        "cat",
    )
    options = ("--network", "shared", "--ip", client, "-e", f"SERVER={server}")
    b.docker("run", "-d", "--name", "sends", *options, "busybox", "sh", "-c", SENDS)
    wait_for(lambda: len(echoed(b, "sends")) > 5, "the first numbers")
    haul(a, "docker", "echo", b.ip)
    reached = len(echoed(b, "sends"))
    wait_for(lambda: len(echoed(b, "sends")) > reached + 20, "more numbers")
    numbers = echoed(b, "sends")
    assert numbers == list(range(1, len(numbers) + 1))
    assert inspect(b, "echo")["NetworkSettings"]["Networks"]["shared"]["IPAddress"] == server
