"""Connections that are established while their container moves: they go on, are closed, or keep it where it is."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import pytest
from faults import STALE_SOCKET, Rest, all_settled, at_point
from hauling import haul, inspect, left, refused, state, unchanged, wait_for
from lab import Host, Lab
from lab.neighbour import Neighbour
from lab.residue import residue
from lab.service import Service, pair
from links import LINK, load_apps, make_link, on_link, redis, writing, written

LONGEST_S = 8  # that a client may wait in a haul which fails
SOON_S = 0.15  # less than it takes until a client sends something again
# Connects to a server, and says what becomes of that.
WAITS = """
import socket, sys
server = socket.create_connection((sys.argv[1], int(sys.argv[2])), 100)
server.sendall(b"PING\\r\\n")
print(server.recv(100))
try:
    print("closed" if server.recv(100) == b"" else "?")
except ConnectionResetError:
    print("closed")
"""


# Listens, and accepts nothing.
DEAF = """
import signal, socket
server = socket.create_server(("", 6379))
signal.pause()
"""
# Says nothing to a server until its input ends; then what that answers, and after how many seconds.
IDLE = """
import socket, sys, time
server = socket.create_connection((sys.argv[1], 6379), 100)
print("connected")
sys.stdin.read()
asked = time.monotonic()
server.sendall(b"PING\\r\\n")
print(server.recv(100).decode().strip(), time.monotonic() - asked)
"""


@pytest.fixture
def neighbour(paired: Lab, clean_lab: Lab) -> Iterator[Neighbour]:
    """Somebody on the link between the hosts; both engines have the image of redis."""
    load_apps(*paired.hosts)
    with Neighbour(paired) as somebody:
        yield somebody


@pytest.fixture
def rest(paired: Lab, neighbour: Neighbour) -> Rest:
    """What both hosts hold before there is a container."""
    return {host.name: residue(host) for host in paired.hosts}


@pytest.fixture
def address(paired: Lab, neighbour: Neighbour) -> str:
    """Redis answers there: a container of a, in a network of the link."""
    a, _ = paired.hosts
    make_link(a)
    address = on_link(paired, 50)
    redis(a, "--network", LINK, "--ip", address)
    return address


def rules(host: Host, name: str = "redis") -> str:
    """What filters packets in the container's network, with the engine's own rules, whose ports are any."""
    pid = inspect(host, name)["State"]["Pid"]
    shown = host.run("nsenter", "-t", str(pid), "-n", "nft", "-s", "list", "ruleset").out
    return re.sub(r"(?<=[: ])\d{4,5}\b", "PORT", shown)


def devices(host: Host, name: str = "redis") -> list[str]:
    pid = inspect(host, name)["State"]["Pid"]
    shown = host.run("nsenter", "-t", str(pid), "-n", "ip", "-j", "link").out
    return sorted(one["ifname"] for one in json.loads(shown))


def goes_on(host: Host) -> None:
    reached = len(written(host))
    wait_for(lambda: len(written(host)) > reached + 50, f"more numbers on {host.name}")


@pytest.mark.parametrize("mode", ["auto", "postcopy"])
def test_a_connection_goes_on(served: Lab, neighbour: Neighbour, rest: Rest, address: str, mode: str) -> None:
    a, b = served.hosts
    before = inspect(a, "redis")["NetworkSettings"]["Networks"][LINK]
    filters = rules(a)
    with writing(neighbour, address) as told:
        haul(a, "docker", "redis", b.ip, "--tcp", "keep", "--mode", mode)
        goes_on(b)
    assert told.error == ""
    assert written(b) == list(range(1, told.acknowledged + 1))
    assert state(a, "redis") == "exited"
    assert (rules(b), devices(b)) == (filters, ["eth0", "lo"])
    after = inspect(b, "redis")["NetworkSettings"]["Networks"][LINK]
    assert [after[key] for key in ("IPAddress", "MacAddress")] == [before[key] for key in ("IPAddress", "MacAddress")]
    for host in served.hosts:
        host.docker("rm", "-f", "redis")
        host.docker("network", "rm", LINK)
    assert [left(host, rest[host.name]) for host in served.hosts] == [[], []]


def test_a_connection_of_ipv6_goes_on(served: Lab, neighbour: Neighbour) -> None:
    """In a container that has another network as well."""
    a, b = served.hosts
    make_link(a, options=("--ipv6", "--subnet", "fd77::/64"))
    a.docker("network", "create", "--subnet", "10.99.1.0/24", "own")
    neighbour.run("ip", "address", "add", "fd77::99/64", "dev", "eth0", "nodad")
    redis(a, "--network", "own", "--network", f"name={LINK},ip6=fd77::50")
    with writing(neighbour, "fd77::50") as told:
        haul(a, "docker", "redis", b.ip)
        goes_on(b)
    assert told.error == ""
    assert written(b) == list(range(1, told.acknowledged + 1))
    assert devices(b) == ["eth0", "eth1", "lo"]


def test_there_and_back_on_one_connection(served: Lab, neighbour: Neighbour, address: str) -> None:
    """An address that the engine chose stays as well; and neighbours that hear nothing from it find it."""
    a, b = served.hosts
    pair(b, a)
    a.docker("rm", "-f", "redis")
    chosen = redis(a, "--network", LINK)["NetworkSettings"]["Networks"][LINK]["IPAddress"]
    with Service(a), writing(neighbour, chosen) as told:
        haul(a, "docker", "redis", b.ip)
        a.docker("rm", "redis")
        goes_on(b)
        haul(b, "docker", "redis", a.ip)
        goes_on(a)
    assert told.error == ""
    assert written(a) == list(range(1, told.acknowledged + 1))


@pytest.mark.parametrize(
    ("words", "service"),
    [
        (("push=lock", "kill"), ()),
        (("after=phaul.net_ns:lock", "kill"), ()),
        (("after=phaul.net_ns:lock", "raise=asked"), ()),
        (("after=phaul.docker_dump:Dump.finish", "raise=asked"), ()),
        (("phase=restore", "kill"), ()),
        ((), ("before=phaul.docker_target:DockerTarget.restore", "raise=asked")),
        ((), ("after=phaul.docker_target:DockerTarget.restore", "raise=asked")),
        ((), ("after=phaul.docker_target:DockerTarget.ready", "kill")),
    ],
    ids=" ".join,
)
def test_a_connection_survives_a_haul_that_fails(
    paired: Lab, neighbour: Neighbour, address: str, words: tuple[str, ...], service: tuple[str, ...]
) -> None:
    a, b = paired.hosts
    filters, before = rules(a), residue(b)
    with Service(b, command=at_point("p.haul-service", service)) as serving, writing(neighbour, address) as told:
        done = a.run(*at_point("p.haul", words), "docker", "redis", b.ip, check=False, timeout=120)
        assert done.code != 0
        wait_for(lambda: state(a, "redis") == "running", "the container's running on a")
        goes_on(a)
        if serving.running:
            serving.stop()
    assert (told.error, told.longest < LONGEST_S) == ("", True), told
    assert written(a) == list(range(1, told.acknowledged + 1))
    assert rules(a) == filters
    with Service(b):  # what a service that was killed has left is its successor's to undo
        wait_for(lambda: all_settled(b), "the settling of the haul on b")
    assert left(b, before, but=(STALE_SOCKET,)) == []


def test_a_connection_that_nobody_accepts(paired: Lab, neighbour: Neighbour) -> None:
    """It is no task's yet, so that CRIU cannot move it: `keep` fails rather than lose it, `close` lets it go."""
    a, b = paired.hosts
    make_link(a)
    address = on_link(paired, 50)
    a.docker("run", "-d", "--name", "deaf", "--network", LINK, "--ip", address, "apps", "python3", "-c", DEAF)
    wait_for(lambda: neighbour.answers(address, 6379), "the server")
    client = neighbour.python(IDLE, address, stdin=subprocess.PIPE)
    assert client.stdout and client.stdout.readline() == "connected\n"
    filters = rules(a, "deaf")
    with Service(b):
        hasty = at_point("p.haul", ("set=phaul.docker_source:PROBE_SECONDS=1",))
        done = a.run(*hasty, "docker", "deaf", b.ip, check=False)
        assert done.code == 7 and "[connection-arrives]" in done.err and "waits to be accepted" in done.err, done
        assert (state(a, "deaf"), rules(a, "deaf")) == ("running", filters)
        haul(a, "docker", "deaf", b.ip, "--tcp", "close")
        assert state(b, "deaf") == "running"


@pytest.mark.parametrize("point", ["state=running", "after=phaul.net_ns:unlock", "after=phaul.docker_restore:release"])
def test_a_service_that_dies_at_the_release(paired: Lab, neighbour: Neighbour, address: str, point: str) -> None:
    """Its successor unlocks what it had not."""
    a, b = paired.hosts
    filters = rules(a)
    with writing(neighbour, address) as told:
        dying = Service(b, command=at_point("p.haul-service", (point, "kill")))
        hauling = a.popen("p.haul", "docker", "redis", b.ip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_for(lambda: not dying.running, "the service's death")
        with Service(b):
            said, _ = hauling.communicate(timeout=60)
            assert hauling.returncode == 0, said
            goes_on(b)
    assert told.error == ""
    assert written(b) == list(range(1, told.acknowledged + 1))
    assert rules(b) == filters


@pytest.mark.parametrize("fails", [False, True])
def test_who_was_silent_is_found_at_once(paired: Lab, neighbour: Neighbour, address: str, fails: bool) -> None:
    """Neighbours have heard nothing from the container since: they, and the switch, know where it is by its word."""
    a, b = paired.hosts
    point = ("after=phaul.docker_target:DockerTarget.restore", "raise=asked") if fails else ()
    with Service(b, command=at_point("p.haul-service", point)):
        client = neighbour.python(IDLE, address, stdin=subprocess.PIPE)
        assert client.stdout and client.stdin and client.stdout.readline() == "connected\n"
        done = haul(a, "docker", "redis", b.ip, check=False)
        assert (done.code != 0) is fails, done
        client.stdin.close()
        answer, seconds = client.stdout.readline().split()
    assert (answer, float(seconds) < SOON_S) == ("+PONG", True), seconds


def test_connections_are_closed_at_the_target(served: Lab, neighbour: Neighbour, address: str) -> None:
    a, b = served.hosts
    peer = neighbour.python(WAITS, address, "6379")
    assert peer.stdout and peer.stdout.readline() == "b'+PONG\\r\\n'\n"
    with unchanged(a, b):
        sentence = refused(haul(a, "docker", "redis", b.ip, "--tcp", "refuse", check=False), "connections")
    assert f"{address}:6379" in sentence and "--tcp close" in sentence
    haul(a, "docker", "redis", b.ip, "--tcp", "close")
    assert peer.stdout.readline() == "closed\n"
    wait_for(lambda: clients(b) == 1, "redis to see the end of its connection")
    again = neighbour.python(WAITS, address, "6379")
    assert again.stdout and again.stdout.readline() == "b'+PONG\\r\\n'\n"


def clients(host: Host) -> int:
    """How many redis has, the one that asks included."""
    return len(host.docker("exec", "redis", "redis-cli", "client", "list").splitlines())


def test_a_container_sees_the_end_of_its_own_connections(served: Lab, neighbour: Neighbour) -> None:
    """On the engine's own bridge, where the address is another one at the target; what is inside it goes, too."""
    a, b = served.hosts
    redis(a, "-p", "6379:6379", name="server")
    a.docker("run", "-d", "--name", "client", "apps", "python3", "-uc", WAITS, a.ip, "6379")
    wait_for(lambda: "PONG" in a.docker("logs", "client"), "the connection")
    with unchanged(a, b):
        for policy in ("keep", "refuse"):
            refused(haul(a, "docker", "client", b.ip, "--tcp", policy, check=False), "connections")
    haul(a, "docker", "client", b.ip, "--tcp", "close")
    wait_for(lambda: "closed" in b.docker("logs", "client"), "the end of the connection")
    wait_for(lambda: state(b, "client") == "exited", "the program's end")
