"""A compose project moves as a whole, or not at all."""

from __future__ import annotations

import pytest
from faults import at_point
from hauling import containers, haul, refused, state, unchanged, wait_for
from lab import Host, Lab, images
from lab.service import Service
from lab.workloads import check_counter, counter, ticks, wait_ticks

NAMES = ("shop-db-1", "shop-app-1", "shop-web-1")  # in the order of their need
NEEDS = {"db": "", "app": "db:service_started:true", "web": "app:service_healthy:false,db:service_started:true"}
LABEL = "com.docker.compose"


def start(host: Host, service: str, *options: str) -> None:
    labels = {"project": "shop", "service": service, "depends_on": NEEDS[service]}
    words = [word for name, value in labels.items() for word in ("--label", f"{LABEL}.{name}={value}")]
    network = ("--network", "shop_default", "--network-alias", service)
    counter(host, f"shop-{service}-1", *words, *network, *options)


@pytest.fixture
def shop(served: Lab) -> tuple[Host, Host]:
    return prepared(served)


def prepared(lab: Lab) -> tuple[Host, Host]:
    a, b = lab.hosts
    for host in (a, b):
        images.load(host, "busybox")
    a.docker("network", "create", "--subnet", "10.212.1.0/24", "shop_default")
    return a, b


def test_all_of_it_moves(shop: tuple[Host, Host]) -> None:
    a, b = shop
    start(a, "web", "-p", "18090:80")
    start(a, "app")
    start(a, "db", "-v", "shop_data:/data")
    last = {name: ticks(a, name)[-1][0] for name in NAMES}
    said = haul(a, "docker", "--project", "shop", b.ip).out
    order = [said.index(f"{name}: Runs on") for name in NAMES]
    assert all(order)
    for name in NAMES:
        assert (state(a, name), state(b, name)) == ("exited", "running")
        check_counter(wait_ticks(b, name, last[name] + 50))
    for service in ("db", "app"):
        assert "1 packets received" in b.docker("exec", "shop-web-1", "ping", "-c", "1", service)


def test_nothing_is_touched_where_one_cannot_move(shop: tuple[Host, Host]) -> None:
    a, b = shop
    start(a, "db", "-v", "shop_data:/data")
    start(a, "app", "--privileged")
    start(a, "web")
    with unchanged(a, b):
        done = haul(a, "docker", "--project", "shop", b.ip, check=False)
    assert "shop-app-1: Container shop-app-1 is privileged" in refused(done, "privileged")


@pytest.mark.parametrize("victim", NAMES)
def test_all_of_it_runs_on_where_one_fails_on_the_way(shop: tuple[Host, Host], victim: str) -> None:
    a, b = shop
    for service in ("db", "app", "web"):
        start(a, service, *(("-v", "shop_data:/data") if service == "db" else ()))
    before = {host.name: set(containers(host)) for host in (a, b)}
    volumes, networks = (b.docker(what, "ls", "-q").split() for what in ("volume", "network"))
    # Its own end of the barrier tells it from the check that comes before.
    hauling = a.popen("p.haul", "docker", "--project", "shop", b.ip, stdout=-1, stderr=-1)
    pattern = f"docker {victim} .*--barrier"
    wait_for(lambda: a.run("pkill", "-KILL", "-f", pattern, check=False).code == 0, "the victim")
    _, err = hauling.communicate(timeout=120)
    assert hauling.returncode == 7, err.decode()
    assert f"{victim}: its p.haul ended".encode() in err
    for name in NAMES:
        wait_for(lambda name=name: state(a, name) == "running", f"{name} to run on")  # type: ignore[misc]
        check_counter(wait_ticks(a, name, ticks(a, name)[-1][0] + 20))
    wait_for(lambda: set(containers(b)) == before["b"], "b to be clean")
    wait_for(lambda: b.docker("network", "ls", "-q").split() == networks, "its networks")
    wait_for(lambda: b.docker("volume", "ls", "-q").split() == volumes, "its volumes")


@pytest.mark.parametrize("point", ["before=phaul.session:Session.restore", "after=phaul.session:Session.verify"])
def test_all_of_it_runs_on_where_one_fails_after_the_freeze(paired: Lab, clean_lab: Lab, point: str) -> None:
    a, b = prepared(paired)
    with Service(b, command=at_point("p.haul-service", (point, "raise=asked"))):
        for service in NEEDS:
            start(a, service)
        there = set(containers(b))
        done = haul(a, "docker", "--project", "shop", b.ip, check=False)
        assert done.code == 7 and "asked" in done.err, done.err
        for name in NAMES:
            assert state(a, name) == "running"
            check_counter(wait_ticks(a, name, ticks(a, name)[-1][0] + 20))
        wait_for(lambda: set(containers(b)) == there, "b to be clean")


def test_bad_input(shop: tuple[Host, Host]) -> None:
    a, b = shop
    refused(haul(a, "docker", "--project", "nothing", b.ip, check=False), "no-project")
    refused(haul(a, "docker", b.ip, check=False), "usage", 2)
    refused(haul(a, "docker", "--project", "shop", "shop-db-1", b.ip, check=False), "usage", 2)
    start(a, "db", "-v", "shop_data:/data")
    start(a, "app", "-v", "shop_data:/data")
    refused(haul(a, "docker", "--project", "shop", b.ip, check=False), "volume-shared")
    a.docker("stop", "-t", "0", "shop-app-1")
    refused(haul(a, "docker", "--project", "shop", b.ip, check=False), "project-stopped")
