"""The image stores of Docker on whole machines."""

from __future__ import annotations

import pytest
from hauling import haul, inspect, state
from lab import Host, images
from lab.service import Service
from lab.vm import VmLab
from lab.workloads import check_counter, counter, ticks, wait_ticks
from test_haul_stores import CONTAINERD, OVERLAY2, Choose, choose, stores

__all__ = ["stores"]

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]


@pytest.mark.long
def test_a_counter_moves_between_stores(paired: VmLab, stores: Choose) -> None:
    """From containerd's to overlay2, back, and from containerd's to containerd's."""
    a, b = paired.hosts
    stores(CONTAINERD, OVERLAY2)
    images.load(a, "busybox")
    counter(a, "count", "-v", "data:/data", "--restart", "unless-stopped")
    a.docker("exec", "count", "sh", "-c", "echo layer >/etc/written; echo volume >/data/written; rm /bin/yes")
    moves(a, b)
    moves(b, a)
    choose(b, CONTAINERD)
    images.load(b, "busybox")
    moves(a, b)
    assert b.docker("run", "--rm", "busybox", "echo", "well") == "well"


def moves(source: Host, target: Host) -> None:
    """The container goes over with all that it has written; what was left of it at the source is removed."""
    last = ticks(source, "count")[-1][0]
    with Service(target):
        haul(source, "docker", "count", target.ip)
    check_counter(wait_ticks(target, "count", last + 30))
    assert (state(source, "count"), state(target, "count")) == ("exited", "running")
    written = "cat /etc/written /data/written; ls /bin/yes 2>/dev/null; true"
    assert target.docker("exec", "count", "sh", "-c", written).split() == ["layer", "volume"]
    assert inspect(target, "count")["Config"]["Image"] == "busybox"
    source.docker("rm", "-v", "count")
    source.docker("volume", "rm", "data")
