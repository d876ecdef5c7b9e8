"""TLS between paired hosts, and what strangers get: nothing. Real sockets, and openssl's own client and server."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wire import ANSWER, HERE, SOON, Host, Served, answer, paired, served, source, target

from phaul import tls
from phaul.errors import LinkLost, NotTrusted, PhaulError, ProtocolError, Unreachable

__all__ = ["paired", "served", "source", "target"]


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
    target.peers.revoke("the-source")
    with pytest.raises(NotTrusted):
        source.connect(served.port)
    target.peers.add("the-source", source.identity.pem)
    assert answer(source.connect(served.port)) == ANSWER


@pytest.mark.usefixtures("paired")
def test_a_connection_that_is_cut_off_leaves_nothing_to_another_of_its_thread(source: Host, served: Served) -> None:
    """Cut off from another thread, say: the reads of the other one wait. (With Python 3.14 they failed.)"""
    cut, other = source.connect(served.port), source.connect(served.port)
    socket.socket.shutdown(cut._sock, socket.SHUT_RDWR)
    cut.close()
    assert other.recv_exact(len(ANSWER), timeout=SOON) == ANSWER
    with pytest.raises(LinkLost, match="silent"):
        other.recv(1, timeout=0.2)
    other.close()


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
    target.peers.revoke("the-source")
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
def test_other_things_that_listen(
    source: Host, talk: Callable[[socket.socket], object], kind: type[PhaulError]
) -> None:
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
    openssl(
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=leaf",
        "-keyout",
        key,
        "-out",
        request,
    )
    openssl(
        "x509",
        "-req",
        "-in",
        request,
        "-CA",
        source.identity.certificate,
        "-CAkey",
        source.identity.key,
        "-days",
        "9",
        "-out",
        leaf,
    )
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
