"""The kernel's tables of sockets, and what is made of them: what goes on at the target, what CRIU is told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from phaul import docker_networks, link_probe, sockets_seen
from phaul.docker_networks import Endpoint, Wish
from phaul.sockets_seen import End, Socket

ROOT = Path(__file__).resolve().parent.parent
# In a network namespace of its own: nothing else is connected there.
CONNECTED = """
import os, socket, sys
sys.path.insert(0, sys.argv[1])
from phaul import sockets_seen

def connect(address):
    server = socket.create_server((address, 0))
    client = socket.create_connection(server.getsockname())
    return server, client, server.accept()[0]

def show():
    seen = sockets_seen.of(os.getpid())
    print(sockets_seen.inside(seen), sorted(map(str, sockets_seen.outside(seen))), sorted(sockets_seen.bound(seen)))

show()
kept = [connect("127.0.0.1"), connect("127.9.9.9")]
with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    kept.append((socket.create_connection(("127.0.0.1", server.getsockname()[1])), server.accept()[0]))
show()
server = socket.create_server(("10.99.0.1", 7000))
client = socket.socket()
client.bind(("10.99.0.2", 7001))
client.connect(("10.99.0.1", 7000))
print(sockets_seen.arriving(sockets_seen.of(os.getpid())))
accepted = server.accept()
print(sockets_seen.arriving(sockets_seen.of(os.getpid())))
show()
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("10.99.0.3", 53))
show()
"""
HEAD = "  sl  local_address rem_address   st tx_queue\n"


def test_sockets_of_a_namespace() -> None:
    addresses = "; ".join(f"ip address add 10.99.0.{number}/32 dev lo" for number in (1, 2, 3))
    script = f'ip link set lo up; {addresses}; exec "$@"'
    argv = ["unshare", "--net", "sh", "-c", script, "sh", sys.executable, "-c", CONNECTED, str(ROOT)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    pair = "['10.99.0.1:7000 - 10.99.0.2:7001', '10.99.0.2:7001 - 10.99.0.1:7000']"
    assert done.stdout.splitlines() == [
        "0 [] []",
        "6 [] []",
        "True",
        "False",
        f"6 {pair} ['10.99.0.1', '10.99.0.2']",
        f"6 {pair} ['10.99.0.1', '10.99.0.2', '10.99.0.3']",
    ]


@pytest.mark.parametrize(
    ("end", "loopback", "readable"),
    [
        ("0100007F:1F90", True, "127.0.0.1:8080"),
        ("0909097F:0001", True, "127.9.9.9:1"),
        ("7F00000A:0016", False, "10.0.0.127:22"),
        ("00000000:0000", False, "0.0.0.0:0"),
        ("00000000000000000000000001000000:0050", True, "[::1]:80"),
        ("0000000000000000FFFF00000100007F:0050", True, "127.0.0.1:80"),
        ("0000000000000000FFFF0000017F000A:0050", False, "10.0.127.1:80"),
        ("000080FE00000000000000000100007F:0050", False, "[fe80::7f00:1]:80"),
    ],
)
def test_addresses_as_the_kernel_writes_them(end: str, loopback: bool, readable: str) -> None:
    seen = sockets_seen._end(end)
    assert (seen.loopback, str(seen)) == (loopback, readable)


@pytest.mark.parametrize(("state", "counts"), [("01", True), ("02", True), ("08", True), ("0A", False), ("06", False)])
def test_what_listens_or_only_waits_for_its_end_is_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, counts: bool
) -> None:
    monkeypatch.setattr(sockets_seen, "PROC", tmp_path)
    (tmp_path / "7" / "net").mkdir(parents=True)
    (tmp_path / "7" / "net" / "tcp").write_text(f"{HEAD}   0: 0100000A:0050 0200000A:1000 {state} 0\n")
    assert len(sockets_seen.outside(sockets_seen.of(7))) == counts


def test_a_process_that_is_gone_has_no_sockets() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert sockets_seen.of(gone.pid) == sockets_seen.of_tasks([gone.pid]) == sockets_seen.of_tasks([]) == []


def test_on_a_network_that_is_others_too_only_the_tasks_own_sockets_count() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        port = ours.getsockname()[1]
        assert port in {one.local.port for one in sockets_seen.of_tasks([os.getpid()])}
        assert port in {one.local.port for one in sockets_seen.of(1)}
        other = subprocess.Popen(["sleep", "1000"])
        try:
            assert port not in {one.local.port for one in sockets_seen.of_tasks([other.pid])}
        finally:
            other.kill()
            other.wait()


def connected(local: str, remote: str, table: str = "tcp", state: str = "01", queue: int = 0) -> Socket:
    return Socket(table, End(local, 1000), End(remote, 2000), state, queue, 1)


LINK = Endpoint("mv", "macvlan", ("10.0.0.5/24", "fd00::5/64"), "02:00:00:00:00:05", asked=False)
OWN = Endpoint("own", "bridge", ("10.1.0.5/24",), "02:00:00:00:00:06", asked=True)
DEFAULT = Endpoint("bridge", "bridge", ("172.17.0.2/16",), "02:00:00:00:00:07", asked=False)
ENDS = [LINK, OWN, DEFAULT]
LISTENS = sockets_seen.LISTEN


@pytest.mark.parametrize(
    ("seen", "wish", "code"),
    [
        (connected("10.0.0.5", "10.0.0.9"), Wish(), ""),
        (connected("fd00::5", "fd00::9"), Wish(), ""),
        (connected("10.0.0.5", "10.0.0.9"), Wish(tcp="refuse"), "connections"),
        (connected("10.0.0.5", "10.0.0.9"), Wish(new_address=True), "connections"),
        (connected("10.1.0.5", "10.1.0.9"), Wish(), "connections"),
        (connected("10.1.0.5", "10.1.0.5"), Wish(), ""),
        (connected("172.17.0.2", "172.17.0.1"), Wish(), "connections"),
        (connected("172.17.0.2", "172.17.0.1"), Wish(tcp="close"), ""),
        (connected("172.17.0.2", "172.17.0.1", table="udp"), Wish(), ""),
        (connected("127.0.0.1", "127.0.0.1"), Wish(tcp="refuse"), ""),
        (connected("10.1.0.5", "0.0.0.0", state=LISTENS), Wish(), ""),
        (connected("172.17.0.2", "0.0.0.0", state=LISTENS), Wish(), "bound-address"),
        (connected("172.17.0.2", "0.0.0.0", state=LISTENS), Wish(tcp="close"), "bound-address"),
        (connected("10.1.0.5", "0.0.0.0", state=LISTENS), Wish(new_address=True), "bound-address"),
        (connected("172.17.0.2", "0.0.0.0", table="udp", state="07"), Wish(), "bound-address"),
        (connected("0.0.0.0", "0.0.0.0", state=LISTENS), Wish(new_address=True), ""),
        (connected("224.0.0.251", "0.0.0.0", table="udp", state="07"), Wish(), ""),
    ],
)
def test_what_a_socket_will_not_be_at_the_target(seen: Socket, wish: Wish, code: str) -> None:
    assert [blocker.code for blocker in docker_networks.blockers([seen], ENDS, wish, "web")] == [code] * bool(code)


@pytest.mark.parametrize(
    ("sockets", "wish", "locked", "lines"),
    [
        ([], Wish(), False, ["network-lock skip"]),
        ([connected("127.0.0.1", "127.0.0.1")], Wish(), False, []),
        ([connected("127.0.0.1", "127.0.0.1")], Wish(), True, ["network-lock skip"]),
        ([connected("10.0.0.5", "10.0.0.9")], Wish(), True, ["network-lock skip"]),
        ([connected("127.0.0.1", "127.0.0.1")], Wish(tcp="close"), False, []),
        (
            [connected("10.0.0.5", "10.0.0.9")],
            Wish(tcp="close"),
            False,
            ["tcp-close", "skip-in-flight", "network-lock skip"],
        ),
    ],
)
def test_what_criu_is_told(sockets: list[Socket], wish: Wish, locked: bool, lines: list[str]) -> None:
    assert docker_networks.criu_lines(sockets, wish, locked=locked, host=False) == lines
    assert set(lines) <= set(docker_networks.CRIU_LINES)


def test_the_addresses_that_sockets_need() -> None:
    """Those of connections that CRIU closes are not among them, nor is one of many hosts."""
    listens = connected("10.1.0.5", "0.0.0.0", state=LISTENS)
    connection = connected("10.0.0.5", "10.0.0.9")
    group = connected("224.0.0.251", "0.0.0.0", table="udp", state="07")
    closing = docker_networks.criu_lines([connection], Wish(tcp="close"), locked=False, host=False)
    assert sockets_seen.bound([listens, connection, group]) == {"10.1.0.5", "10.0.0.5"}
    assert docker_networks.needs_early([connection, group], ENDS, [])
    assert not docker_networks.needs_early([connection, group], ENDS, closing)
    assert docker_networks.needs_early([listens], ENDS, closing)
    assert not docker_networks.needs_early([group], ENDS, [])


def test_the_stand_in_for_the_engines_devices() -> None:
    assert docker_networks.early_commands([LINK, OWN]).splitlines() == [
        "link add phaul0 type bridge",
        "link set phaul0 up",
        "address add 10.0.0.5/24 dev phaul0",
        "address add fd00::5/64 dev phaul0 nodad",
        "address add 10.1.0.5/24 dev phaul0",
        "route add 0/0 dev phaul0",
        "route add ::/0 dev phaul0",
    ]
    with pytest.raises(ValueError, match="link"):
        docker_networks.early_commands([Endpoint("mv", "macvlan", ("1.2.3.4/24\nlink del eth0",), "", asked=True)])


@pytest.mark.parametrize(
    ("operation", "address", "said"),
    [(2, "10.0.0.5", "02:42:0a:00:00:05"), (1, "10.0.0.5", ""), (2, "10.0.0.6", "")],
)
def test_who_answers_for_an_address(operation: int, address: str, said: str) -> None:
    hardware = bytes.fromhex("02420a000005")
    arp = link_probe._ARP.pack(1, 0x800, 6, 4, operation, hardware, socket.inet_aton(address), bytes(6), bytes(4))
    frame = link_probe._HEADER.pack(bytes(6), hardware, link_probe.ETH_P_ARP) + arp
    assert link_probe.sender_of(frame, socket.inet_aton("10.0.0.5")) == said
    assert link_probe.sender_of(frame[:30], socket.inet_aton("10.0.0.5")) == ""


@pytest.mark.parametrize(
    ("counts", "read"),
    [("TCP: inuse 0 orphan 0\nUDP: inuse 1 mem 0\n", 1), ("TCP: inuse 2 orphan 0\nUDP: inuse 0\n", 1), ("", 2)],
)
def test_a_table_that_is_empty_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: str, read: int
) -> None:
    """Where the kernel does not say which are, all are."""
    monkeypatch.setattr(sockets_seen, "PROC", tmp_path)
    (tmp_path / "7/net").mkdir(parents=True)
    if counts:
        (tmp_path / "7/net/sockstat").write_text(f"sockets: used 9\n{counts}")
    for table in ("tcp", "udp"):
        (tmp_path / "7/net" / table).write_text(f"{HEAD}   0: 0100007F:0016 00000000:0000 0A 00000000:00000000\n")
    assert len(sockets_seen.of(7)) == read
