"""The door of the service: handshakes that never end, its end, ports, the local socket."""

from __future__ import annotations

import contextlib
import shutil
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest
from wire import ANSWER, HERE, SOON, Host, Served, answer, paired, served, source, target

from phaul import tls
from phaul.connection import PROTOCOL, Connection, welcome
from phaul.errors import LinkLost, NotTrusted, Refused, Unreachable
from phaul.handshakes import MAX_HANDSHAKES
from phaul.listener import Listener
from phaul.messages_pb2 import Hello, HelloReply

__all__ = ["paired", "served", "source", "target"]


@pytest.mark.usefixtures("paired")
def test_a_handshake_has_its_time(source: Host, target: Host) -> None:
    with socket.create_server((HERE, 0)) as server, socket.create_connection(server.getsockname()) as slow:
        accepted, _ = server.accept()
        slow.sendall(b"\x16\x03")
        before = time.monotonic()
        with pytest.raises(LinkLost, match="did not complete its handshake in time"):
            tls.accept(accepted, target.identity, target.peers, timeout=0.2)
        assert time.monotonic() - before < 5
        assert accepted.fileno() == -1


@pytest.mark.usefixtures("paired")
def test_thousand_who_say_nothing_keep_nobody_out(source: Host, served: Served) -> None:
    with contextlib.ExitStack() as closing:
        for _ in range(1000):
            closing.enter_context(socket.create_connection((HERE, served.port), SOON))
        assert answer(source.connect(served.port)) == ANSWER
        serving = [thread for thread in threading.enumerate() if thread.name == "connection"]
        assert len(serving) <= MAX_HANDSHAKES + 64


@pytest.mark.usefixtures("paired")
def test_a_key_that_others_can_read_is_not_used(source: Host, served: Served) -> None:
    source.identity.key.chmod(0o644)
    with pytest.raises(NotTrusted, match="chmod 0600"):
        source.connect(served.port)


@pytest.mark.usefixtures("paired")
def test_close_ends_links_and_frees_the_port(source: Host, target: Host, served: Served) -> None:
    link = source.connect(served.port)
    assert link.recv_exact(len(ANSWER), timeout=SOON) == ANSWER
    served.listener.close()
    with contextlib.closing(link), contextlib.suppress(LinkLost):
        assert link.recv(1, timeout=SOON) == b""
    assert served.listener.connections == 0
    again = Listener(lambda _: None, target.identity, target.peers, address=(HERE, served.port))
    again.close()


@pytest.mark.usefixtures("paired")
def test_who_is_revoked_is_out_however_its_pin_went(source: Host, target: Host, served: Served) -> None:
    def by_hand() -> None:
        shutil.rmtree(target.peers.directory)

    for revoke in (lambda: target.peers.revoke("the-source"), by_hand, lambda: target.peers.revoke("the-source")):
        with contextlib.closing(source.connect(served.port)) as link:
            assert link.recv_exact(len(ANSWER), timeout=SOON) == ANSWER
            revoke()
            with contextlib.suppress(LinkLost):
                assert link.recv(1, timeout=SOON) == b""
        with pytest.raises(NotTrusted):
            source.connect(served.port)
        target.peers.add("the-source", source.identity.pem)


@pytest.mark.usefixtures("paired")
def test_others_stay_when_one_is_revoked(source: Host, target: Host, served: Served) -> None:
    target.peers.add("another", target.identity.pem)
    with contextlib.closing(source.connect(served.port)) as link:
        assert link.recv_exact(len(ANSWER), timeout=SOON) == ANSWER
        target.peers.revoke("another")
        # By now the service has heard of it.
        assert answer(source.connect(served.port)) == ANSWER
        link.send(b"on and on")
        assert served.listener.connections >= 1


@pytest.mark.usefixtures("paired")
def test_a_port_that_is_taken(target: Host, served: Served) -> None:
    with pytest.raises(Unreachable, match=f"Port {served.port} .* something else uses it") as caught:
        Listener(lambda _: None, target.identity, target.peers, address=(HERE, served.port))
    assert caught.value.code == "cannot-listen"


@pytest.mark.usefixtures("paired")
def test_the_reason_of_a_refusal_arrives_though_the_client_goes_on_sending(source: Host, target: Host) -> None:
    def refuse(hello: Hello) -> None:
        raise Refused(f"{hello.purpose}: no.", code="busy")

    listener = Listener(lambda link: welcome(link, refuse), target.identity, target.peers, address=(HERE, 0))
    try:
        with contextlib.closing(source.connect(listener.port)) as link:
            connection = Connection(link)
            connection.send(Hello(protocol=PROTOCOL, purpose="data"))
            link.send(bytes(4 << 20))
            reply = connection.recv(HelloReply, timeout=SOON)
            assert (reply.failure.code, reply.failure.sentence) == ("busy", "data: no.")
    finally:
        listener.close()


@pytest.mark.usefixtures("paired")
def test_an_address_of_ip_6(source: Host, target: Host) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    source.peers.add("::1", target.identity.pem)
    listener = Listener(lambda link: link.send(ANSWER), target.identity, target.peers, address=("", 0))
    try:
        for address in (HERE, "::1", "[::1]"):
            link = tls.connect(address, listener.port, source.identity, source.peers)
            assert answer(link) == ANSWER
    finally:
        listener.close()


def test_the_unix_door_is_roots_alone(tmp_path: Path, target: Host) -> None:
    path = tmp_path / "run" / "service.sock"
    listener = Listener(lambda link: link.send(link.peer.encode()), target.identity, target.peers, unix=True, path=path)
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            assert sock.recv(100) == b"local"
        with pytest.raises(Unreachable, match=r"answers on .* already") as caught:
            Listener(lambda _: None, target.identity, target.peers, unix=True, path=path)
        assert caught.value.code == "already-running"
        # Even where the directory's mode would let another user through.
        for lax in (tmp_path, *tmp_path.parents[:3], path.parent):
            lax.chmod(0o755)
        path.chmod(0o666)
        assert as_nobody(path) == "b''"
    finally:
        listener.close()
    assert list(path.parent.iterdir()) == []


def as_nobody(path: Path) -> str:
    """What a process of another user gets from the socket."""
    script = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        "s.connect(sys.argv[1]); print(s.recv(100))"
    )
    argv = ["/usr/bin/python3", "-I", "-c", script, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SOON, check=False)
    return done.stdout.strip() or done.stderr


def test_a_socket_that_a_dead_service_left_is_replaced(tmp_path: Path, target: Host) -> None:
    path = tmp_path / "service.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listener = Listener(lambda link: link.send(ANSWER), target.identity, target.peers, unix=True, path=path)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            assert sock.recv(100) == ANSWER
    finally:
        listener.close()
