"""Networks are at the target what they were: made anew or found there, with addresses, names and devices as before."""

from __future__ import annotations

import json
from typing import Any

import pytest
from faults import STALE_SOCKET
from hauling import haul, inspect, left, state, wait_for
from lab import Host, Lab
from lab.residue import residue
from lab.service import Service, pair
from links import LINK, load_apps, make_link, on_link

SLEEP = ("busybox", "sleep", "100000")


def devices(host: Host, name: str) -> dict[str, tuple[str, list[str]]]:
    """Hardware address, and addresses with their lengths, of each of the container's devices."""
    pid = inspect(host, name)["State"]["Pid"]
    shown = json.loads(host.run("nsenter", "-t", str(pid), "-n", "ip", "-j", "address").out)
    return {
        one["ifname"]: (
            one["address"],
            sorted(f"{had['local']}/{had['prefixlen']}" for had in one["addr_info"] if had["scope"] == "global"),
        )
        for one in shown
        if one["link_type"] != "loopback"
    }


def routes(host: Host, name: str) -> list[str]:
    pid = inspect(host, name)["State"]["Pid"]
    words = ["nsenter", "-t", str(pid), "-n", "ip", "-o"]
    lines = [line for family in ("-4", "-6") for line in host.run(*words, family, "route").out.splitlines()]
    return sorted(line.strip() for line in lines)


def configuration(host: Host, network: str) -> dict[str, Any]:
    """What inspect shows of a network, without what each has of its own."""
    shown: dict[str, Any] = host.engine.get(f"/networks/{network}")
    return {key: value for key, value in shown.items() if key not in ("Id", "Created", "Containers", "Status")}


OPTIONS = (
    "--opt",
    "com.docker.network.driver.mtu=1400",
    "--label",
    "one=1",
    "--opt",
    "com.docker.network.bridge.name=bz",
)
MANY = {
    "zz": ("--subnet", "10.99.1.0/24", "--ipv6", "--subnet", "fd99:1::/64", *OPTIONS),
    "mm": ("--internal", "--subnet", "10.99.2.0/24"),
    "aa": ("--subnet", "10.99.3.0/24", "--gateway", "10.99.3.254", "--ip-range", "10.99.3.128/25"),
}


@pytest.mark.parametrize("made_before", [False, True])
def test_several_networks(served: Lab, made_before: bool) -> None:
    """Names, addresses and devices stay, whatever order the engine would choose."""
    a, b = served.hosts
    for name, options in MANY.items():
        for host in (a, b) if made_before else (a,):
            host.docker("network", "create", *options, name)
    make_link(a, options=("--ipv6", "--subnet", "fd99:4::/64"))
    asked = (
        "name=zz",
        "alias=nick",
        "ip=10.99.1.77",
        "ip6=fd99:1::77",
        "mac-address=02:42:00:00:00:77",
        "gw-priority=5",
    )
    others = (
        "--network",
        "name=aa,alias=other",
        "--network",
        f"name={LINK},ip={on_link(served, 60)}",
        "--network",
        "mm",
    )
    a.docker("run", "-d", "--name", "many", "--network", ",".join(asked), *others, *SLEEP)
    before = devices(a, "many"), routes(a, "many")
    assert len(before[0]) == 4
    haul(a, "docker", "many", b.ip)
    assert (devices(b, "many"), routes(b, "many")) == before
    for name in (*MANY, LINK):
        assert configuration(b, name) == configuration(a, name)
    for name, nick in (("zz", "nick"), ("aa", "other"), ("mm", "many")):
        assert b.docker("run", "--rm", "--network", name, "busybox", "ping", "-c1", "-W5", nick)
    b.docker("restart", "-t", "0", "many")
    assert devices(b, "many") == before[0]


def test_networks_that_nobody_gave_a_subnet(served: Lab) -> None:
    """There and back: at home the network takes no fixed address, and nobody had asked for one."""
    a, b = served.hosts
    pair(b, a)
    for name in ("auto", "more"):
        a.docker("network", "create", name)
    a.docker("run", "-d", "--name", "two", "--network", "more", "--network", "auto", *SLEEP)
    before = devices(a, "two")
    haul(a, "docker", "two", b.ip)
    assert devices(b, "two") == before
    a.docker("rm", "two")
    with Service(a):
        haul(b, "docker", "two", a.ip)
    assert devices(a, "two").keys() == before.keys()
    subnets = {device: had[1][0].partition(".0")[0] for device, had in before.items()}
    assert {device: had[1][0].partition(".0")[0] for device, had in devices(a, "two").items()} == subnets


def test_a_connected_network_of_no_wish(served: Lab) -> None:
    """What `docker network connect` has added, besides the engine's own bridge."""
    a, b = served.hosts
    a.docker("network", "create", "--subnet", "10.99.5.0/24", "late")
    a.docker("run", "-d", "--name", "two", *SLEEP)
    a.docker("network", "connect", "--alias", "nick", "late", "two")
    before = devices(a, "two")
    haul(a, "docker", "two", b.ip)
    after = devices(b, "two")
    assert after.keys() == before.keys() == {"eth0", "eth1"}
    assert after["eth1"] == before["eth1"]


def test_listening_on_an_address_of_its_own(served: Lab) -> None:
    a, b = served.hosts
    load_apps(a, b)
    a.docker("network", "create", "--subnet", "10.99.6.0/24", "own")
    server = ("redis-server", "--save", "", "--protected-mode", "no", "--bind", "10.99.6.66")
    a.docker("run", "-d", "--name", "redis", "--network", "own", "--ip", "10.99.6.66", "apps", *server)
    ask = ("exec", "redis", "redis-cli", "-h", "10.99.6.66", "ping")
    wait_for(lambda: "PONG" in a.docker(*ask, check=False), "redis")
    haul(a, "docker", "redis", b.ip)
    assert b.docker(*ask) == "PONG"


def test_ipvlan(served: Lab) -> None:
    a, b = served.hosts
    if a.run("ip", "link", "add", "probe", "link", "eth0", "type", "ipvlan", check=False).code:
        pytest.skip("this machine's kernel has no ipvlan")
    a.run("ip", "link", "delete", "probe")
    make_link(a, driver="ipvlan")
    a.docker("run", "-d", "--name", "one", "--network", LINK, "--ip", on_link(served, 60), *SLEEP)
    before = devices(a, "one")
    haul(a, "docker", "one", b.ip)
    assert devices(b, "one")["eth0"][1] == before["eth0"][1]


def test_what_a_haul_made_goes_where_it_fails(served: Lab) -> None:
    a, b = served.hosts
    a.docker("network", "create", "--subnet", "10.99.7.0/24", "asked")
    b.docker("network", "create", "asked")  # takes no fixed address
    a.docker("network", "create", "fresh")
    a.docker("run", "-d", "--name", "two", "--network", "name=asked,ip=10.99.7.7", "--network", "fresh", *SLEEP)
    before = residue(b)
    done = haul(a, "docker", "two", b.ip, check=False)
    assert done.code in (3, 7) and "[address]" in done.err and "--new-address" in done.err, done
    assert state(a, "two") == "running"
    assert left(b, before, but=(STALE_SOCKET,)) == []
    haul(a, "docker", "two", b.ip, "--new-address")
    assert devices(b, "two").keys() == {"eth0", "eth1"}
