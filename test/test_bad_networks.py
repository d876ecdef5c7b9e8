"""Networks and addresses that the target cannot give are refused with one sentence, and nothing is changed."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import pytest
from hauling import haul, inspect, python, refused, stand_in, state, unchanged, wait_for
from lab import Host, Lab
from lab.neighbour import Neighbour
from links import LINK, load_apps, make_link, on_link, redis

SLEEP = ("busybox", "sleep", "100000")
LISTEN = """
import socket, time
server = socket.create_server(("", 18091))
print("ready", flush=True)
kept = [server.accept() for _ in range(9)]
"""


def start(host: Host, *arguments: str) -> None:
    host.docker("run", "-d", "--name", "bad", *arguments, *SLEEP)


def refusal(a: Host, b: Host, code: str, *options: str) -> str:
    """The sentence that the haul of the container is refused with."""
    with unchanged(a, b):
        return refused(haul(a, "docker", "bad", b.ip, *options, check=False), code)


def address(host: Host, network: str) -> str:
    return str(inspect(host, "bad")["NetworkSettings"]["Networks"][network]["IPAddress"])


def moves_with_another(a: Host, b: Host, network: str) -> None:
    """Where another address will do, it moves."""
    before = address(a, network)
    haul(a, "docker", "bad", b.ip, "--new-address")
    assert address(b, network) not in ("", before)
    assert state(b, "bad") == "running"


def test_a_subnet_that_another_network_has(a: Host, b: Host) -> None:
    a.docker("network", "create", "--subnet", "10.99.1.0/24", "ours")
    b.docker("network", "create", "--subnet", "10.99.0.0/16", "theirs")
    start(a, "--network", "ours", "--ip", "10.99.1.5")
    said = refusal(a, b, "subnet-taken")
    assert "10.99.1.0/24" in said and "theirs on b" in said and "--new-address" in said
    moves_with_another(a, b, "ours")


def test_a_subnet_of_the_hosts_own(a: Host, b: Host) -> None:
    with link(b, "other0", "10.98.1.1/24"):
        a.docker("network", "create", "--subnet", "10.98.1.0/25", "ours")
        start(a, "--network", "ours")
        assert "the link other0 on b" in refusal(a, b, "subnet-taken")
        moves_with_another(a, b, "ours")


def test_an_address_that_is_taken(a: Host, b: Host) -> None:
    for host in (a, b):
        host.docker("network", "create", "--subnet", "10.99.2.0/24", "ours")
    b.docker("run", "-d", "--name", "other", "--network", "ours", "--ip", "10.99.2.5", *SLEEP)
    start(a, "--network", "ours", "--ip", "10.99.2.5")
    assert "10.99.2.5 of network ours on b is taken" in refusal(a, b, "address")
    moves_with_another(a, b, "ours")


def test_a_network_of_another_subnet(a: Host, b: Host) -> None:
    a.docker("network", "create", "--subnet", "10.99.3.0/24", "ours")
    b.docker("network", "create", "--subnet", "10.99.4.0/24", "ours")
    start(a, "--network", "ours")
    assert "which has 10.99.4.0/24" in refusal(a, b, "address")
    moves_with_another(a, b, "ours")


def test_a_link_that_is_not_there(a: Host, b: Host) -> None:
    with link(a, "other0", "10.98.1.1/24"):
        a.docker("network", "create", "-d", "macvlan", "-o", "parent=other0", "--subnet", "10.98.1.0/24", LINK)
        start(a, "--network", LINK)
        assert "the link other0, which b has not" in refusal(a, b, "network-parent")
        a.docker("rm", "-f", "bad")
        a.docker("network", "rm", LINK)


def test_a_link_that_another_network_has(a: Host, b: Host) -> None:
    make_link(a)
    make_link(b, name="theirs")
    start(a, "--network", LINK)
    assert "network theirs's" in refusal(a, b, "network-parent")


@pytest.mark.parametrize("lacking", ["a", "b"])
def test_without_nftables(a: Host, b: Host, lacking: str) -> None:
    make_link(a)
    start(a, "--network", LINK)
    with stand_in({"a": a, "b": b}[lacking], "/usr/sbin/nft", None):
        said = refused(haul(a, "docker", "bad", b.ip, check=False), "nft-missing")
        assert f"nft is not on {'this host' if lacking == 'a' else 'b'}" in said
        haul(a, "docker", "bad", b.ip, "--tcp", "refuse")
    assert state(b, "bad") == "running"


def test_a_connection_whose_peers_are_not_on_the_targets_link(served: Lab) -> None:
    a, b = served.hosts
    load_apps(a, b)
    make_link(a)
    with Neighbour(served) as neighbour, link(b, "other0", "10.98.1.1/24"):
        redis(a, "--network", LINK, "--ip", on_link(served, 50), name="bad")
        program = "import socket, sys; kept = socket.create_connection((sys.argv[1], 6379)); print(); sys.stdin.read()"
        peer = neighbour.python(program, on_link(served, 50), stdin=subprocess.PIPE)
        assert peer.stdout and peer.stdout.readline()
        make_link(b, options=())
        b.docker("network", "rm", LINK)
        subnet = f"{on_link(served, 0)}/24"
        b.docker("network", "create", "-d", "macvlan", "-o", "parent=other0", "--subnet", subnet, LINK)
        assert "another than that of this container" in refusal(a, b, "other-link")
        haul(a, "docker", "bad", b.ip, "--tcp", "close")
        b.docker("rm", "-f", "bad")
        b.docker("network", "rm", LINK)


def test_listening_on_an_address_that_changes(a: Host, b: Host) -> None:
    serve = 'httpd -f -p "$(hostname -i):80"'
    a.docker("run", "-d", "--name", "bad", "busybox", "sh", "-c", serve)
    own = address(a, "bridge")
    table = a.path(f"/proc/{inspect(a, 'bad')['State']['Pid']}/net/tcp")
    wait_for(lambda: ":0050 00000000:0000 0A" in table.read_text(), "the server")
    assert f"listens on {own}:80" in refusal(a, b, "bound-address")


def test_connections_of_the_hosts_own_address(a: Host, b: Host) -> None:
    """On the host's network: the container's count, and nobody else's."""
    with python(a, LISTEN):
        start(a, "--network", "host")
        others = a.popen("busybox", "nc", a.ip, "18091", stdin=subprocess.PIPE)
        try:
            haul(a, "docker", "bad", b.ip)
            b.docker("rm", "-f", "bad")
            a.docker("rm", "-f", "bad")
            connect = f"sleep 100000 | nc {a.ip} 18091"
            a.docker("run", "-d", "--name", "bad", "--network", "host", "busybox", "sh", "-c", connect)
            wait_for(lambda: "nc" in a.docker("top", "bad"), "the program")
            assert f"{a.ip}:18091" in refusal(a, b, "connections")
            haul(a, "docker", "bad", b.ip, "--tcp", "close")
        finally:
            others.terminate()  # reaches it, which SIGKILL would not: its zombie would stay for a while
            others.wait()


def test_a_network_that_is_another_containers(a: Host, b: Host) -> None:
    a.docker("run", "-d", "--name", "other", *SLEEP)
    start(a, "--network", "container:other")
    assert "shares a container's network" in refusal(a, b, "network-container")


@contextlib.contextmanager
def link(host: Host, name: str, address: str) -> Iterator[None]:
    """The host has one more link, with its address there."""
    host.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    try:
        for device in (name, f"{name}p"):
            host.run("ip", "link", "set", device, "up")
        host.run("ip", "address", "add", address, "dev", name)
        yield
    finally:
        host.run("ip", "link", "delete", name)
