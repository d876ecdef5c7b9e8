"""Docker's two image stores, on either host: what is moved is the same, and the image is the same image there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from hauling import haul, inspect, state, summary
from lab import Host, Lab, images
from lab.service import Service
from lab.workloads import check_counter, counter, ticks, wait_ticks

CONFIG = "/etc/docker/daemon.json"
OVERLAY2, CONTAINERD = "overlay2", "overlayfs"  # what the engine calls its storage driver with each

Choose = Callable[..., None]


def choose(host: Host, store: str) -> None:
    """Restart the host's engine with that image store, unless it has it."""
    if host.engine.get("/info")["Driver"] == store:
        return
    config = json.loads(host.read("cat", CONFIG))
    for setting in ("storage-driver", "features"):
        config.pop(setting, None)
    config |= {"storage-driver": OVERLAY2} if store == OVERLAY2 else {"features": {"containerd-snapshotter": True}}
    host.put(CONFIG, json.dumps(config).encode())
    host.stop_dockerd()
    host.start_dockerd()
    assert host.engine.get("/info")["Driver"] == store


@pytest.fixture
def stores(paired: Lab, clean_lab: Lab) -> Iterator[Choose]:
    """Gives each host an image store; both have overlay2 again afterwards, and nothing is left in the other."""
    yield lambda *wanted: [choose(host, store) for host, store in zip(paired.hosts, wanted, strict=True)]
    for host in paired.hosts:
        if host.engine.get("/info")["Driver"] != OVERLAY2:
            host.run("sh", "-c", "docker rm -f $(docker ps -aq); docker rmi -f $(docker images -q)", check=False)
            choose(host, OVERLAY2)


@pytest.mark.parametrize(
    ("here", "there"),
    [(OVERLAY2, CONTAINERD), (CONTAINERD, OVERLAY2), (CONTAINERD, CONTAINERD)],
    ids=["to-containerd", "from-containerd", "both"],
)
@pytest.mark.parametrize("known", [True, False], ids=["image-there", "image-sent"])
def test_a_counter_moves_between_stores(paired: Lab, stores: Choose, here: str, there: str, known: bool) -> None:
    a, b = paired.hosts
    stores(here, there)
    images.load(a, "busybox")
    if known:
        images.load(b, "busybox")
    else:
        images.remove_all(b)
    counter(a, "count", "-v", "data:/data", "--restart", "unless-stopped")
    a.docker("exec", "count", "sh", "-c", "echo layer >/etc/written; echo volume >/data/written; rm /bin/yes")
    last = ticks(a, "count")[-1][0]
    with Service(b):
        said = summary(haul(a, "docker", "count", b.ip))
    assert (said.bytes["image"] > 0) is not known
    check_counter(wait_ticks(b, "count", last + 30))
    assert (state(a, "count"), state(b, "count")) == ("exited", "running")
    assert b.docker("exec", "count", "cat", "/etc/written", "/data/written").split() == ["layer", "volume"]
    assert b.docker("exec", "count", "sh", "-c", "ls /bin/yes || echo gone", timeout=30).endswith("gone")
    assert inspect(b, "count")["Config"]["Image"] == "busybox"
    b.docker("rm", "-f", "count")
    assert b.docker("run", "--rm", "busybox", "echo", "well") == "well"
