"""Pairing over real sockets: the right code, wrong ones, and strangers who send anything at all."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from phaul import pairing, tls
from phaul.errors import LinkLost, NotTrusted, PhaulError, ProtocolError, Unreachable, UsageError
from phaul.keys import Identity, Peer, Peers, is_address, peer_name
from phaul.pairing import Window

HERE = "127.0.0.1"
SOON = 20
CODE, OTHER = "ABCD-EFGH-JKLM", "ABCD-EFGH-JKLN"


class Host:
    """A host's keys and peers."""

    def __init__(self, where: Path) -> None:
        self.identity = Identity.load_or_make(where)
        self.peers = Peers(where)

    def request(self, port: int, code: str, address: str = HERE) -> str:
        return pairing.request(address, code, self.identity, self.peers, port=port, timeout=SOON)


@pytest.fixture
def source(tmp_path: Path) -> Host:
    return Host(tmp_path / "source")


@pytest.fixture
def target(tmp_path: Path) -> Host:
    return Host(tmp_path / "target")


@pytest.fixture
def window(target: Host) -> Iterator[Window]:
    with Window(target.identity, target.peers, bind=HERE, port=0, code=CODE) as opened:
        yield opened


@pytest.fixture
def waiting(window: Window) -> Iterator[Future[Peer]]:
    """What the open window comes to."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(window.wait, SOON)


def test_the_right_code_pairs_both(source: Host, target: Host, window: Window, waiting: Future[Peer]) -> None:
    assert source.request(window.port, CODE) == target.identity.fingerprint
    assert waiting.result(SOON) == Peer(HERE, source.identity.pem)
    assert source.peers.all() == [Peer(HERE, target.identity.pem)]
    names = {HERE, peer_name(socket.gethostname())}
    assert {peer.name for peer in target.peers.all()} == names
    assert {peer.pem for peer in target.peers.all()} == {source.identity.pem}


def test_paired_hosts_can_talk(source: Host, target: Host, window: Window, waiting: Future[Peer]) -> None:
    source.request(window.port, CODE)
    waiting.result(SOON)
    with socket.create_server((HERE, 0)) as server, ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(lambda: tls.accept(server.accept()[0], target.identity, target.peers))
        link = tls.connect(HERE, server.getsockname()[1], source.identity, source.peers)
        with contextlib.closing(link), contextlib.closing(accepted.result(SOON)) as theirs:
            link.send(b"hi")
            assert theirs.recv_exact(2, timeout=SOON) == b"hi"


@pytest.mark.parametrize("typed", ["abcdefghjklm", " abcd efgh jklm ", "ABCDEFGH-JKLM"])
def test_a_code_may_be_typed_as_people_do(source: Host, window: Window, waiting: Future[Peer], typed: str) -> None:
    source.request(window.port, typed)
    assert waiting.result(SOON).pem == source.identity.pem


def test_a_wrong_code_pairs_nothing_and_may_be_corrected(
    source: Host, target: Host, window: Window, waiting: Future[Peer]
) -> None:
    for _ in range(2):
        with pytest.raises(NotTrusted, match="another code") as caught:
            source.request(window.port, OTHER)
        assert caught.value.code == "wrong-code"
    assert source.peers.all() == target.peers.all() == []
    source.request(window.port, CODE)
    assert waiting.result(SOON).pem == source.identity.pem


def test_three_wrong_codes_close_the_window(source: Host, target: Host, window: Window, waiting: Future[Peer]) -> None:
    for _ in range(3):
        with pytest.raises(NotTrusted, match="another code"):
            source.request(window.port, OTHER)
    with pytest.raises(NotTrusted, match="wrong codes") as caught:
        waiting.result(SOON)
    assert caught.value.code == "wrong-code"
    with pytest.raises((Unreachable, LinkLost)):
        source.request(window.port, CODE)
    assert source.peers.all() == target.peers.all() == []


def test_pairing_again_replaces(source: Host, target: Host, tmp_path: Path) -> None:
    for number, host in enumerate((source, Host(tmp_path / "reinstalled"))):
        host.peers.add(HERE, host.identity.pem)
        with Window(target.identity, target.peers, bind=HERE, port=0) as window, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(window.wait, SOON)
            host.request(window.port, window.code)
            waiting.result(SOON)
        assert host.peers.certificate_for(HERE) == target.identity.pem, number
        assert target.peers.certificate_for(HERE) == host.identity.pem


def test_nobody_comes(window: Window) -> None:
    with pytest.raises(NotTrusted, match="Nobody paired in time") as caught:
        window.wait(0.05)
    assert caught.value.code == "pairing-expired"


def test_no_window_is_open(source: Host) -> None:
    with socket.socket() as unused:
        unused.bind((HERE, 0))
        with pytest.raises(Unreachable, match=r"run p\.haul-service pair there first") as caught:
            source.request(unused.getsockname()[1], CODE)
    assert caught.value.code == "pairing-not-open"


@pytest.mark.parametrize("code", ["", "ABCD", "ABCD-EFGH-JKL!", "ABCD-EFGH-JKLMN", "ÄBCD-EFGH-JKLM", "9999-9999-9999"])
def test_what_can_be_no_code_is_refused_without_a_call(source: Host, code: str) -> None:
    with pytest.raises(UsageError, match="12 letters and digits") as caught:
        source.request(1, code)
    assert caught.value.code == "bad-code"


def test_codes_are_random() -> None:
    codes = {pairing.new_code() for _ in range(200)}
    assert len(codes) == 200
    assert all(re.fullmatch(r"[A-Z2-7]{4}-[A-Z2-7]{4}-[A-Z2-7]{4}", code) for code in codes)


def test_offer_tells_code_and_key(source: Host, target: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    ports: list[int] = []
    requests: list[Future[str]] = []
    listen = tls.listen

    def listened(address: str, port: int) -> socket.socket:
        sock = listen(address, port)
        ports.append(sock.getsockname()[1])
        return sock

    def announce(line: str) -> None:
        told.append(line)
        if found := re.search(r"Code: (\S+)", line):
            requests.append(pool.submit(source.request, ports[0], found[1]))

    monkeypatch.setattr(tls, "listen", listened)
    with ThreadPoolExecutor(1) as pool:
        peer = pairing.offer(target.identity, target.peers, bind=HERE, port=0, announce=announce, deadline_s=SOON)
        assert requests[0].result(SOON) == target.identity.fingerprint
    assert target.identity.fingerprint in told[0]
    assert source.identity.fingerprint == peer.fingerprint
    assert source.identity.fingerprint in told[-1]


def test_strangers_get_nothing_and_use_no_attempt_up(
    source: Host, target: Host, window: Window, waiting: Future[Peer]
) -> None:
    for size in (0, 1, 3, 40, 200, 4096):
        with socket.create_connection((HERE, window.port), SOON) as stranger:
            stranger.sendall(b"\x00" + os.urandom(size))
            stranger.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while stranger.recv(5000):
                    pass
    assert target.peers.all() == []
    source.request(window.port, CODE)
    assert waiting.result(SOON).pem == source.identity.pem


def test_strangers_who_say_nothing_keep_nobody_out(source: Host, window: Window, waiting: Future[Peer]) -> None:
    with contextlib.ExitStack() as closing:
        for _ in range(100):
            closing.enter_context(socket.create_connection((HERE, window.port), SOON))
        source.request(window.port, CODE)
        assert waiting.result(SOON).pem == source.identity.pem


def test_a_proof_cannot_be_sent_back(source: Host, target: Host, window: Window, waiting: Future[Peer]) -> None:
    """A stranger who echoes what it hears shows no knowledge of the code."""
    with socket.create_connection((HERE, window.port), SOON) as stranger:
        heard = stranger.recv(5000)
        stranger.sendall(heard + bytes(32))
        assert stranger.recv(100) == b"\x00"
    assert target.peers.all() == []
    source.request(window.port, CODE)
    waiting.result(SOON)


@pytest.mark.parametrize(
    ("says", "kind"),
    [
        (b"", LinkLost),
        (b"SSH-2.0-OpenSSH_9.9\r\n" * 10, ProtocolError),
        (b"\x01\xff\xff" + bytes(5000), ProtocolError),
        (b"\x01\x00\x01c" + bytes(32) + b"\x41" + b"x" * 65, ProtocolError),
        (b"\x01\x00\x01c" + bytes(32) + b"\x01\n", ProtocolError),
        (b"\x01\x00\x01c" + bytes(32) + b"\x01x\x01" + bytes(32), NotTrusted),
    ],
    ids=["nothing", "ssh", "a long certificate", "a long name", "an odd name", "a false proof"],
)
def test_false_targets_are_not_trusted(source: Host, says: bytes, kind: type[PhaulError]) -> None:
    with socket.create_server((HERE, 0)) as server, ThreadPoolExecutor(1) as pool:
        requested = pool.submit(source.request, server.getsockname()[1], CODE)
        with server.accept()[0] as false:
            with contextlib.suppress(OSError):
                false.sendall(says)
                false.shutdown(socket.SHUT_WR)
            with pytest.raises(kind):
                requested.result(SOON)
    assert source.peers.all() == []


def test_a_source_cannot_take_another_hosts_address(
    source: Host, target: Host, window: Window, waiting: Future[Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "10.0.0.9")
    source.request(window.port, CODE)
    waiting.result(SOON)
    assert [peer.name for peer in target.peers.all()] == [HERE]
    assert is_address("10.0.0.9") and is_address("::1") and not is_address("host")


@pytest.mark.parametrize("name", ["others", "local"])
def test_a_source_cannot_take_another_hosts_name(
    source: Host, target: Host, window: Window, waiting: Future[Peer], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    target.peers.add("others", target.identity.pem)
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    source.request(window.port, CODE)
    waiting.result(SOON)
    assert [peer.name for peer in target.peers.all()] == [HERE, "others"]
    assert target.peers.certificate_for("others") == target.identity.pem
