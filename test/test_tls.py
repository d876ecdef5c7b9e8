"""TLS between paired hosts, and what strangers get: nothing. Real sockets, and openssl's own client and server."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from phaul import tls
from phaul.connection import PROTOCOL, Connection, welcome
from phaul.errors import LinkLost, NotTrusted, PhaulError, ProtocolError, Refused, Unreachable
from phaul.handshakes import MAX_HANDSHAKES
from phaul.keys import Identity, Peers
from phaul.link import Link
from phaul.listener import Listener
from phaul.messages_pb2 import Hello, HelloReply

SOON = 20
HERE = "127.0.0.1"
ANSWER = b"served"


class Host:
    """A host's keys and peers."""

    def __init__(self, where: Path) -> None:
        self.etc = where
        self.identity = Identity.load_or_make(where)
        self.peers = Peers(where)

    def connect(self, port: int, **kw: float) -> Link:
        return tls.connect(HERE, port, self.identity, self.peers, **kw)


@pytest.fixture
def source(tmp_path: Path) -> Host:
    return Host(tmp_path / "source")


@pytest.fixture
def target(tmp_path: Path) -> Host:
    return Host(tmp_path / "target")


@pytest.fixture
def paired(source: Host, target: Host) -> None:
    source.peers.add(HERE, target.identity.pem)
    target.peers.add("the-source", source.identity.pem)


class Served:
    """A listener on a target that answers each link with ANSWER, and counts them."""

    def __init__(self, target: Host) -> None:
        self.links: list[Link] = []
        self.listener = Listener(self.handle, target.identity, target.peers, address=(HERE, 0))
        self.port = self.listener.port

    def handle(self, link: Link) -> None:
        self.links.append(link)
        link.send(ANSWER)
        while link.recv(1000, timeout=None):
            pass


@pytest.fixture
def served(target: Host) -> Iterator[Served]:
    serving = Served(target)
    yield serving
    serving.listener.close()


def answer(link: Link) -> bytes:
    with contextlib.closing(link):
        return link.recv_exact(len(ANSWER), timeout=SOON)


@pytest.mark.usefixtures("paired")
def test_paired_hosts_talk(source: Host, served: Served) -> None:
    link = source.connect(served.port)
    assert link.peer == HERE
    assert link._sock.version() == "TLSv1.3"  # type: ignore[attr-defined]
    assert answer(link) == ANSWER
    assert [link.peer for link in served.links] == ["the-source"]


@pytest.mark.usefixtures("paired")
def test_a_peer_is_known_by_the_address_it_came_from_where_that_is_pinned(
    source: Host, target: Host, served: Served
) -> None:
    target.peers.add(HERE, source.identity.pem)
    assert answer(source.connect(served.port)) == ANSWER
    assert [link.peer for link in served.links] == [HERE]


def test_a_target_that_is_not_paired_is_not_even_called(source: Host) -> None:
    with pytest.raises(NotTrusted, match=r"127\.0\.0\.1 is not paired.*p\.haul pair 127\.0\.0\.1") as caught:
        source.connect(1)
    assert caught.value.code == "not-paired"


def test_a_source_that_the_target_does_not_know(source: Host, target: Host, served: Served) -> None:
    source.peers.add(HERE, target.identity.pem)
    for _ in range(5):
        with pytest.raises(NotTrusted, match=r"127\.0\.0\.1 has not paired this host") as caught:
            source.connect(served.port)
        assert caught.value.code == "not-paired"
    assert served.links == []


@pytest.mark.usefixtures("paired")
def test_failures_leave_nothing_to_the_next_connection(source: Host, target: Host, served: Served) -> None:
    target.peers.remove("the-source")
    with pytest.raises(NotTrusted):
        source.connect(served.port)
    target.peers.add("the-source", source.identity.pem)
    assert answer(source.connect(served.port)) == ANSWER


@pytest.mark.usefixtures("paired")
def test_another_key_at_the_target(source: Host, target: Host, served: Served, tmp_path: Path) -> None:
    other = Host(tmp_path / "other")
    source.peers.add(HERE, other.identity.pem)
    with pytest.raises(NotTrusted, match="another key") as caught:
        source.connect(served.port)
    assert caught.value.code == "wrong-key"
    assert other.identity.fingerprint in caught.value.detail
    assert target.identity.fingerprint in caught.value.detail
    assert served.links == []


@pytest.mark.usefixtures("paired")
def test_revoking_and_pairing_need_no_restart(source: Host, target: Host, served: Served) -> None:
    assert answer(source.connect(served.port)) == ANSWER
    target.peers.remove("the-source")
    with pytest.raises(NotTrusted):
        source.connect(served.port)


@pytest.mark.usefixtures("paired")
def test_nothing_listens(source: Host) -> None:
    with socket.socket() as unused:
        unused.bind((HERE, 0))
        port = unused.getsockname()[1]
        with pytest.raises(Unreachable, match=f"Nothing listens on port {port}.*start p.haul-service there") as caught:
            source.connect(port)
    assert caught.value.code == "service-not-running"


def test_an_address_that_does_not_answer(source: Host, target: Host) -> None:
    with socket.socket() as full:
        # A queue that is full makes the kernel drop the next connection's SYN: as a host that is off.
        full.bind((HERE, 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        with contextlib.ExitStack() as closing:
            for sock in waiting:
                closing.enter_context(sock).setblocking(False)
                sock.connect_ex(full.getsockname())
            source.peers.add(HERE, target.identity.pem)
            with pytest.raises(Unreachable, match="cannot be reached: no answer") as caught:
                source.connect(full.getsockname()[1], timeout=0.3)
    assert caught.value.code == "unreachable"


def test_a_name_that_does_not_exist(source: Host, target: Host) -> None:
    source.peers.add("no-such-host.invalid", target.identity.pem)
    with pytest.raises(Unreachable, match="cannot be resolved"):
        tls.connect("no-such-host.invalid", 1, source.identity, source.peers)


@contextlib.contextmanager
def fake_server(talk: Callable[[socket.socket], object]) -> Iterator[int]:
    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = server.accept()
                with sock:
                    talk(sock)

    with socket.create_server((HERE, 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(SOON)


@pytest.mark.usefixtures("paired")
@pytest.mark.parametrize(
    ("talk", "kind"),
    [
        (lambda sock: sock.sendall(b"SSH-2.0-OpenSSH\r\n" * 5) or sock.recv(5000), ProtocolError),
        (lambda sock: sock.recv(5000), LinkLost),
        (lambda sock: sock.recv(5000) and threading.Event().wait(0.6), Unreachable),
    ],
    ids=["another protocol", "ends at once", "says nothing"],
)
def test_other_things_that_listen(source: Host, talk: Callable[[socket.socket], object], kind: type[PhaulError]) -> None:
    with fake_server(talk) as port, pytest.raises(kind) as caught:
        source.connect(port, timeout=0.4)
    assert type(caught.value) is kind


def s_client(port: int, *args: str | Path) -> tuple[bytes, str]:
    """What openssl's client got out of a connection, and what it said about it."""
    argv = ["openssl", "s_client", "-connect", f"{HERE}:{port}", "-quiet", *args]
    done = subprocess.run(argv, input=b"hello\n", capture_output=True, timeout=SOON, check=False)
    return done.stdout, done.stderr.decode(errors="replace")


@pytest.mark.usefixtures("paired")
def test_openssl_without_a_key_gets_nothing(served: Served) -> None:
    got, said = s_client(served.port)
    assert got == b"" and "alert" in said
    assert served.links == []


@pytest.mark.usefixtures("paired")
def test_openssl_with_a_key_that_is_not_pinned_gets_nothing(served: Served, tmp_path: Path) -> None:
    stranger = Host(tmp_path / "stranger").identity
    got, said = s_client(served.port, "-cert", stranger.certificate, "-key", stranger.key)
    assert got == b"" and "alert" in said
    assert served.links == []


@pytest.mark.usefixtures("paired")
def test_a_certificate_that_a_paired_host_signed_gets_nothing(source: Host, served: Served, tmp_path: Path) -> None:
    key, request, leaf = tmp_path / "leaf.key", tmp_path / "leaf.csr", tmp_path / "leaf.pem"
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=leaf", "-keyout", key, "-out", request)
    openssl("x509", "-req", "-in", request, "-CA", source.identity.certificate, "-CAkey", source.identity.key, "-days", "9", "-out", leaf)
    got, _ = s_client(served.port, "-cert", leaf, "-key", key, "-cert_chain", source.identity.certificate)
    assert got == b""
    assert served.links == []


@pytest.mark.usefixtures("paired")
def test_a_pinned_certificate_without_its_key_gets_nothing(source: Host, served: Served, tmp_path: Path) -> None:
    stranger = Host(tmp_path / "stranger").identity
    shutil.copy(source.identity.certificate, tmp_path / "stolen.pem")
    got, _ = s_client(served.port, "-cert", tmp_path / "stolen.pem", "-key", stranger.key)
    assert got == b""
    assert served.links == []


@pytest.mark.usefixtures("paired")
@pytest.mark.parametrize("version", ["-tls1_1", "-tls1_2"])
def test_older_tls_gets_nothing(source: Host, served: Served, version: str) -> None:
    got, said = s_client(served.port, version, "-cert", source.identity.certificate, "-key", source.identity.key)
    assert got == b"" and "alert" in said
    assert served.links == []


@pytest.mark.usefixtures("paired")
def test_openssl_with_the_pinned_key_gets_an_answer(source: Host, served: Served) -> None:
    got, _ = s_client(served.port, "-cert", source.identity.certificate, "-key", source.identity.key, "-no_ign_eof")
    assert tls.READY.startswith(got[:1]) and ANSWER.startswith(got[1:])


def openssl(*args: str | Path) -> None:
    subprocess.run(["openssl", *args], check=True, capture_output=True)


@pytest.mark.usefixtures("paired")
def test_random_bytes_get_nothing(source: Host, served: Served) -> None:
    for _ in range(30):
        with socket.create_connection((HERE, served.port), SOON) as stranger:
            stranger.sendall(os.urandom(300))
            stranger.shutdown(socket.SHUT_WR)
            got = b""
            with contextlib.suppress(ConnectionError):
                got = b"".join(iter(lambda: stranger.recv(1000), b""))
            assert ANSWER not in got and len(got) <= 7, "at most a TLS alert"
    assert served.links == []
    assert answer(source.connect(served.port)) == ANSWER


@pytest.mark.usefixtures("paired")
def test_no_session_can_be_resumed(source: Host, served: Served) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(source.identity.certificate, source.identity.key)
    with context.wrap_socket(socket.create_connection((HERE, served.port), SOON)) as client:
        assert client.recv(1) == tls.READY
        assert client.session is None or not client.session.has_ticket


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
    again = Listener(lambda link: None, target.identity, target.peers, address=(HERE, served.port))
    again.close()


@pytest.mark.usefixtures("paired")
def test_a_port_that_is_taken(target: Host, served: Served) -> None:
    with pytest.raises(Unreachable, match=f"Port {served.port} .* something else uses it") as caught:
        Listener(lambda link: None, target.identity, target.peers, address=(HERE, served.port))
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
        with pytest.raises(Unreachable, match="answers on .* already") as caught:
            Listener(lambda link: None, target.identity, target.peers, unix=True, path=path)
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
