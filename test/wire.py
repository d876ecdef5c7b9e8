"""Links, two hosts' keys, paired, and something that is served: what tests of the wire share."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phaul import tls
from phaul.keys import Identity, Peers
from phaul.link import Link
from phaul.listener import Listener

SOON = 20

HERE = "127.0.0.1"
ANSWER = b"served"


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


@pytest.fixture(params=["unix", "tcp", "tls"])
def pair(request: pytest.FixtureRequest, tmp_path: Path, pool: ThreadPoolExecutor) -> Iterator[tuple[Link, Link]]:
    """Two ends of one link."""
    if request.param == "unix":
        left, right = (Link(sock, "peer") for sock in socket.socketpair())
    elif request.param == "tcp":
        left, right = (Link(sock, "peer") for sock in tcp_pair())
    else:
        left, right = tls_pair(tmp_path, pool)
    yield left, right
    left.close()
    right.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server((HERE, 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    return client, accepted


def tls_pair(where: Path, pool: ThreadPoolExecutor) -> tuple[Link, Link]:
    identity = Identity.load_or_make(where / "etc")
    peers = Peers(where / "etc")
    peers.add("127.0.0.1", identity.pem)
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = pool.submit(lambda: tls.accept(server.accept()[0], identity, peers))
        client = tls.connect("127.0.0.1", server.getsockname()[1], identity, peers)
        return client, accepted.result(SOON)


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
