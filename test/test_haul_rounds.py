"""There and back, again and again: it stays what it was, and neither host keeps anything of it."""

from __future__ import annotations

import re

import pytest
from hauling import haul, left, settled, state
from lab import Host, Lab, images
from lab.service import Service, pair
from lab.workloads import check_counter, counter, ticks, wait_ticks
from test_haul_config import MAY_DIFFER, shown

ROUNDS = 10
NETWORKS = {"first": "10.211.1.0/24", "second": "10.211.2.0/24"}
VOLUME = "data"
# What is said of networks in which it keeps its addresses and the names of its devices, though nobody had said so.
SAID_OF_NETWORKS = re.compile(
    r"NetworkSettings\.Networks\.(first|second)\.(Aliases|DriverOpts(\.com\.docker\.network\.endpoint\.ifname)?)"
)


def forget(host: Host) -> None:
    """What a haul leaves to its host on purpose."""
    host.docker("volume", "rm", VOLUME)
    host.docker("network", "rm", *NETWORKS)


@pytest.mark.timeout(600)
def test_ten_rounds(served: Lab) -> None:
    a, b = served.hosts
    pair(b, a)
    for host in (a, b):
        images.load(host, "busybox")
    with Service(a):
        rest = {host.name: settled(host) for host in (a, b)}
        for name, subnet in NETWORKS.items():
            a.docker("network", "create", "--subnet", subnet, name)
        options = ("-v", f"{VOLUME}:/data", "-p", "18080:80", "-p", "127.0.0.1:18081:81/udp", "--restart", "always")
        own = ("--hostname", "rounds", "--ip", "10.211.1.77", "--mac-address", "02:42:0a:d3:01:4d")
        counter(a, "count", "--network", "first", *own, *options)
        a.docker("network", "connect", "--ip", "10.211.2.77", "second", "count")
        a.docker("exec", "count", "sh", "-c", "echo kept >/data/file; echo kept >/etc/file")
        before = shown(a, "count")
        for _ in range(ROUNDS):
            for source, target in ((a, b), (b, a)):
                last = ticks(source, "count")[-1][0]
                haul(source, "docker", "count", target.ip, "--remove-source")
                forget(source)
                wait_ticks(target, "count", last + 10)
        after = shown(a, "count")
        differs = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        may_differ = (*MAY_DIFFER, SAID_OF_NETWORKS)
        assert sorted(path for path in differs if not any(may.fullmatch(path) for may in may_differ)) == []
        assert a.docker("exec", "count", "cat", "/data/file", "/etc/file") == "kept\nkept"
        check_counter(ticks(a, "count"))
        assert (state(a, "count"), state(b, "count")) == ("running", "")
        assert left(b, rest["b"]) == []
        a.docker("rm", "-f", "count")
        forget(a)
        assert left(a, rest["a"]) == []
