"""The service's doors: a TCP port for paired hosts, a unix socket for this host's root and for ssh."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from phaul import tls
from phaul.errors import NotTrusted, PhaulError, Unreachable
from phaul.handshakes import Handshakes, shut
from phaul.keys import LOCAL, Identity, Peers, der_of
from phaul.link import Link
from phaul.pin_watch import PinWatch
from phaul.places import LOGS, RUN, private_dir

LOG = logging.getLogger("phaul.listener")

SOCKET = RUN / "service.sock"
HANDSHAKE_S = 10.0
START_S = 20.0
_CLOSE_S = 5.0
_PIECE = 256 << 10

Handler = Callable[[Link], None]


@dataclass(frozen=True)
class _Door:
    """A listening socket and what makes a link of who comes in."""

    sock: socket.socket
    admit: Callable[[socket.socket], Link]
    path: Path | None = None
    inode: int = 0


class Listener:
    """Accepts connections and gives each link that proved itself to `handle`, in a thread of its own.

    Listens on `address` (host or "" for all, port or 0 for any that is free) for paired hosts, and if
    `unix` is set on the socket `path` for this host's root. The link is closed when `handle` returns;
    a PhaulError that it raises is logged as one line. Peers are read afresh for each connection, and those of a
    host whose pin goes are ended.

    Raises Unreachable (cannot-listen, already-running).
    """

    def __init__(
        self,
        handle: Handler,
        identity: Identity,
        peers: Peers,
        *,
        address: tuple[str, int] | None = None,
        unix: bool = False,
        path: Path = SOCKET,
    ) -> None:
        self._handle, self._identity, self._peers = handle, identity, peers
        self._handshakes = Handshakes()
        self._lock = threading.Lock()
        self._links: set[Link] = set()
        self._threads: set[threading.Thread] = set()
        self._stopped = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._pins = PinWatch(peers.directory)
        # First the socket that only one service can have: it says best that one runs already.
        self._doors = [_Door(_listen_unix(path), _admit_root, path, path.stat().st_ino)] if unix else []
        self.port = 0
        try:
            if address is not None:
                self.port = self._listen_tcp(*address)
        except BaseException:
            self._shut_doors()
            raise
        self._loop = threading.Thread(target=self._accept_loop, name="listener", daemon=True)
        self._loop.start()

    @property
    def connections(self) -> int:
        """How many links are being handled now."""
        with self._lock:
            return len(self._links)

    def close(self) -> None:
        """Shut the doors, drop handshakes, close every link and wait up to 5 s for their handlers."""
        self._stopped.set()
        shut(self._wake)
        self._loop.join()
        self._shut_doors()
        self._pins.close()
        self._handshakes.drop_all()
        with self._lock:
            links, threads = list(self._links), list(self._threads)
        for link in links:
            link.close()
        until = time.monotonic() + _CLOSE_S
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def _listen_tcp(self, host: str, port: int) -> int:
        sock = tls.listen(host, port, backlog=512)
        sock.setblocking(False)
        self._doors.append(_Door(sock, self._admit_peer))
        return int(sock.getsockname()[1])

    def _admit_peer(self, sock: socket.socket) -> Link:
        return tls.accept(sock, self._identity, self._peers, timeout=HANDSHAKE_S)

    def _shut_doors(self) -> None:
        for door in self._doors:
            door.sock.close()
            _unlink_ours(door)

    def _accept_loop(self) -> None:
        poller = select.poll()
        poller.register(self._woken, select.POLLIN)
        pins = self._pins.fileno()
        if pins is not None:
            poller.register(pins, select.POLLIN)
        doors = {door.sock.fileno(): door for door in self._doors}
        for fd in doors:
            poller.register(fd, select.POLLIN)
        while not self._stopped.is_set():
            for fd, _events in poller.poll():
                if fd in doors:
                    self._let_in(doors[fd])
                elif fd == pins:
                    self._pins.renew()
                    self._drop_revoked()

    def _drop_revoked(self) -> None:
        """What a host that is trusted no more has open."""
        pinned = {der_of(peer.pem) for peer in self._peers.all()}
        with self._lock:
            revoked = [link for link in self._links if link.certificate and link.certificate not in pinned]
        for link in revoked:
            LOG.warning("%s is not paired any more: its connection is ended", link.peer)
            link.close()

    def _let_in(self, door: _Door) -> None:
        try:
            sock, _ = door.sock.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as exc:
            # Out of descriptors, say: the connection stays in the queue, so trying at once would spin.
            LOG.error("cannot accept a connection: %s", exc.strerror)
            self._stopped.wait(0.2)
            return
        thread = threading.Thread(target=self._serve_one, args=(door, sock), name="connection", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _serve_one(self, door: _Door, sock: socket.socket) -> None:
        try:
            link = self._admitted(door, sock)
            if link is not None:
                self._serve_link(link)
        finally:
            sock.close()
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _admitted(self, door: _Door, sock: socket.socket) -> Link | None:
        link = None
        try:
            with self._handshakes.one(sock):
                link = door.admit(sock)
        except (PhaulError, OSError) as exc:
            LOG.warning("refused: %s", exc)
            if link is not None:
                link.close()
            return None
        return link

    def _serve_link(self, link: Link) -> None:
        threading.current_thread().name = f"from {link.peer}"
        with self._lock:
            self._links.add(link)
        # Its pin may have gone before it could be found among the links.
        self._drop_revoked()
        try:
            if not self._stopped.is_set():
                self._handle(link)
        except PhaulError as exc:
            LOG.warning("%s: %s", link.peer, exc.sentence)
        except Exception:
            LOG.exception("the connection from %s failed unexpectedly", link.peer)
        finally:
            if not self._stopped.is_set():
                link.linger()
            link.close()
            with self._lock:
                self._links.discard(link)


def stdio(*, path: Path = SOCKET, command: Sequence[str] | None = None, log: Path = LOGS / "on-demand.log") -> int:
    """What `p.haul-service --stdio` does: carry stdin and stdout to the service, which it starts if need be.

    Returns 0 when the service ended the connection; the process should end then, as a thread may
    still wait on stdin. Raises Unreachable where the service does not come up.
    """
    with _service(path, command or (str(Path(sys.argv[0]).absolute()), "--unix"), log) as sock:
        thread = threading.Thread(target=_stdin_to, args=(sock,), name="stdin", daemon=True)
        thread.start()
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            while piece := sock.recv(_PIECE):
                left = memoryview(piece)
                while left:
                    left = left[os.write(1, left) :]
    return 0


def _stdin_to(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := os.read(0, _PIECE):
            sock.sendall(piece)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def _service(path: Path, command: Sequence[str], log: Path) -> socket.socket:
    """A connection to the service on this host."""
    sock = _try_connect(path)
    if sock is not None:
        return sock
    lock = os.open(private_dir(path.parent) / "service.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another may have started it while we waited for the lock.
        return _try_connect(path) or _started(path, command, log)
    finally:
        os.close(lock)


def _started(path: Path, command: Sequence[str], log: Path) -> socket.socket:
    private_dir(log.parent)
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "wb") as words:
        # In a session of its own: it must outlive the ssh login that asked for it.
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True, cwd="/"
        )
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        sock = _try_connect(path)
        if sock is not None:
            return sock
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(0.01)
            raise Unreachable(f"p.haul-service ended with status {code} when it was started: see {log}.")
    process.kill()
    process.wait()
    raise Unreachable(f"p.haul-service did not come up within {START_S:g} s: see {log}.")


def _try_connect(path: Path) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except OSError as exc:
        sock.close()
        raise Unreachable(f"The service's socket {path} cannot be used: {exc.strerror}.") from exc
    return sock


def _listen_unix(path: Path) -> socket.socket:
    private_dir(path.parent)
    answers = _try_connect(path)
    if answers is not None:
        answers.close()
        raise Unreachable(f"A service answers on {path} already.", code="already-running")
    # Made aside and moved into place: the path never names a socket that does not answer yet.
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(aside))
    aside.chmod(0o600)
    sock.listen(128)
    sock.setblocking(False)
    aside.rename(path)
    return sock


def _admit_root(sock: socket.socket) -> Link:
    _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid != 0:
        sock.close()
        raise NotTrusted(f"A process of uid {uid} came to the service's socket: only root may.")
    link = Link(sock, LOCAL)
    link.of_root = True
    return link


def _unlink_ours(door: _Door) -> None:
    with contextlib.suppress(OSError):
        if door.path is not None and door.path.stat().st_ino == door.inode:
            door.path.unlink()
