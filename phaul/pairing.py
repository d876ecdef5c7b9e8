"""Making two hosts known to each other, once, by a code that a person carries from one to the other.

Both sides send at once: version (1 byte), length (2) and DER of the certificate, nonce (32), length (1)
and text of the hostname. Then the source proves that it has the code, and the target answers with a
verdict byte, 1 and its own proof or 0 and an end. A proof is HMAC-SHA256 over role and everything said
so far, keyed by scrypt of the code with both nonces as salt. Nothing a stranger sent is parsed further
than by these lengths before its proof is right.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import secrets
import select
import socket
import ssl
import string
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from phaul import tls
from phaul.errors import NotTrusted, PhaulError, ProtocolError, Unreachable, UsageError
from phaul.handshakes import Handshakes, shut
from phaul.keys import LOCAL, Identity, Peer, Peers, der_of, is_address, peer_name
from phaul.link import Link

LOG = logging.getLogger("phaul.pairing")

PORT = 12346
ATTEMPTS = 3
BASE32 = string.ascii_uppercase + "234567"
CODE_LENGTH = 12

_VERSION = 1
_MAX_CERTIFICATE = 3900
_MAX_HOSTNAME = 64
_NONCE = 32
_PROOF = 32
_SILENCE_S = 10.0
_RIGHT, _WRONG = b"\x01", b"\x00"
_SOURCE, _TARGET = b"phaul pairing: source\0", b"phaul pairing: target\0"
# What a person may have typed for a letter that the alphabet has.
_MISREAD = str.maketrans("018", "OIB", "- ")


def new_code() -> str:
    """60 random bits as three groups of base32 characters."""
    letters = "".join(secrets.choice(BASE32) for _ in range(CODE_LENGTH))
    return "-".join(letters[start : start + 4] for start in range(0, CODE_LENGTH, 4))


def offer(
    identity: Identity,
    peers: Peers,
    *,
    bind: str = "",
    port: int = PORT,
    code: str | None = None,
    announce: Callable[[str], None],
    deadline_s: float = 600,
) -> Peer:
    """At the target: wait for the source that knows the code, and trust it under its address and hostname.

    `announce` gets lines for people. Returns the source. Raises NotTrusted (wrong-code after three
    attempts, pairing-expired), UsageError (bad-code), Unreachable (cannot-listen).
    """
    with Window(identity, peers, bind=bind, port=port, code=code) as window:
        announce(f"This host's key: {identity.fingerprint}")
        announce(f"Code: {window.code}   (for one source, within {deadline_s / 60:g} minutes)")
        source = window.wait(deadline_s)
    announce(f"Paired with {source.name}: {source.fingerprint}")
    return source


def request(address: str, code: str, identity: Identity, peers: Peers, *, port: int = PORT, timeout: float = 30) -> str:
    """At the source: pair with the target that shows the code, and trust it under this address.

    `timeout` is in seconds, for each step. Returns the target's fingerprint. Raises NotTrusted
    (wrong-code), UsageError (bad-code, bad-name), Unreachable (pairing-not-open), ProtocolError, LinkLost.
    """
    plain, name = _plain(code), peer_name(address)
    link = Link(_dial(name, port, timeout), address)
    try:
        ours = _Side.of(identity)
        link.send(ours.said)
        theirs = _Side.read(link, timeout)
        key, transcript = _key(plain, ours, theirs), ours.said + theirs.said
        link.send(_proof(key, _SOURCE, transcript))
        proof = link.recv_exact(_PROOF, timeout=timeout) if link.recv(1, timeout=timeout) == _RIGHT else b""
        if not hmac.compare_digest(proof, _proof(key, _TARGET, transcript)):
            raise NotTrusted(f"{address} shows another code: nothing was paired.", code="wrong-code")
    finally:
        link.close()
    peer = Peer(name, theirs.pem)
    peers.add(peer.name, peer.pem)
    return peer.fingerprint


class Window:
    """The target's open window: listens from the start until one source was paired or it is closed."""

    def __init__(
        self, identity: Identity, peers: Peers, *, bind: str = "", port: int = PORT, code: str | None = None
    ) -> None:
        self.code = code or new_code()
        self._plain = _plain(self.code)
        self._identity, self._peers = identity, peers
        self._handshakes = Handshakes()
        self._lock = threading.Lock()
        self._attempts_left = ATTEMPTS
        self._outcome: Peer | NotTrusted | None = None
        self._sock = tls.listen(bind, port)
        self.port = int(self._sock.getsockname()[1])
        self._sock.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
        self._handshakes.drop_all()

    def wait(self, deadline_s: float) -> Peer:
        """The source that was paired, within `deadline_s` seconds. Raises NotTrusted."""
        until = time.monotonic() + deadline_s
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        # The end of a pairing shuts the listening socket, which wakes this poll.
        while self._outcome is None and (left := until - time.monotonic()) > 0:
            if poller.poll(left * 1000):
                self._let_in()
        with self._lock:
            outcome = self._outcome or NotTrusted("Nobody paired in time.", code="pairing-expired")
            self._outcome = outcome
        if isinstance(outcome, NotTrusted):
            raise outcome
        return outcome

    def _let_in(self) -> None:
        try:
            sock, came_from = self._sock.accept()
        except OSError:
            return
        threading.Thread(target=self._pair_with, args=(sock, peer_name(came_from[0])), daemon=True).start()

    def _pair_with(self, sock: socket.socket, address: str) -> None:
        link = Link(sock, address)
        try:
            with self._handshakes.one(sock):
                self._talk(link)
                link.linger()
        except (PhaulError, OSError) as exc:
            LOG.warning("pairing with %s: %s", address, exc)
        finally:
            link.close()

    def _talk(self, link: Link) -> None:
        ours = _Side.of(self._identity)
        link.send(ours.said)
        theirs = _Side.read(link, _SILENCE_S)
        proof = link.recv_exact(_PROOF, timeout=_SILENCE_S)
        # One at a time, also because each derivation of a key takes 16 MiB.
        with self._lock:
            if self._outcome is None:
                self._judge(link, ours, theirs, proof)
            if self._outcome is not None:
                shut(self._sock)

    def _judge(self, link: Link, ours: _Side, theirs: _Side, proof: bytes) -> None:
        key, transcript = _key(self._plain, theirs, ours), theirs.said + ours.said
        if hmac.compare_digest(proof, _proof(key, _SOURCE, transcript)):
            self._pin(link.peer, theirs)
            # The verdict is on its way before the outcome ends the window, and perhaps this program.
            link.send(_RIGHT + _proof(key, _TARGET, transcript))
            self._outcome = Peer(link.peer, theirs.pem)
            return
        self._attempts_left -= 1
        LOG.warning("%s gave a wrong code; attempts left: %d", link.peer, self._attempts_left)
        if not self._attempts_left:
            self._outcome = NotTrusted(f"{ATTEMPTS} wrong codes: nothing was paired.", code="wrong-code")
        link.send(_WRONG)

    def _pin(self, address: str, theirs: _Side) -> None:
        former = self._pinned(address)
        self._peers.add(address, theirs.pem)
        # Its own word gives it a name, but neither another host's address nor another host's name.
        with contextlib.suppress(UsageError):
            free = theirs.hostname.lower() != LOCAL and self._pinned(theirs.hostname) in ("", former)
            if free and not is_address(theirs.hostname):
                self._peers.add(theirs.hostname, theirs.pem)

    def _pinned(self, name: str) -> str:
        """The certificate that a name has; "" where it has none that is of use."""
        with contextlib.suppress(NotTrusted):
            return self._peers.certificate_for(name) or ""
        return ""


@dataclass(frozen=True)
class _Side:
    """What one side says of itself, as it was sent."""

    said: bytes
    certificate: bytes
    nonce: bytes
    hostname: str

    @property
    def pem(self) -> str:
        return ssl.DER_cert_to_PEM_cert(self.certificate)

    @classmethod
    def of(cls, identity: Identity) -> Self:
        certificate, nonce = der_of(identity.pem), secrets.token_bytes(_NONCE)
        if len(certificate) > _MAX_CERTIFICATE:
            raise NotTrusted(f"{identity.certificate} is too long to be paired.", code="bad-certificate")
        hostname = socket.gethostname().encode("ascii", "replace")[:_MAX_HOSTNAME]
        head = struct.pack(">BH", _VERSION, len(certificate))
        said = head + certificate + nonce + bytes([len(hostname)]) + hostname
        return cls(said, certificate, nonce, hostname.decode())

    @classmethod
    def read(cls, link: Link, timeout: float) -> Self:
        """What the other side says. Raises ProtocolError, LinkLost."""
        head = link.recv_exact(3, timeout=timeout)
        version, length = struct.unpack(">BH", head)
        if version != _VERSION or not 0 < length <= _MAX_CERTIFICATE:
            raise ProtocolError(f"What answers at {link.peer} does not pair as this P.Haul does.")
        rest = link.recv_exact(length + _NONCE + 1, timeout=timeout)
        certificate, nonce, size = rest[:length], rest[length:-1], rest[-1]
        if size > _MAX_HOSTNAME:
            raise ProtocolError(f"{link.peer} gave a hostname that is too long.")
        name = link.recv_exact(size, timeout=timeout)
        hostname = name.decode("ascii", "replace")
        if not hostname.isprintable():
            raise ProtocolError(f"{link.peer} gave a hostname that cannot be printed.")
        return cls(head + rest + name, certificate, nonce, hostname)


def _key(plain: str, source: _Side, target: _Side) -> bytes:
    return hashlib.scrypt(plain.encode(), salt=source.nonce + target.nonce, n=1 << 14, r=8, p=1, dklen=32)


def _proof(key: bytes, role: bytes, transcript: bytes) -> bytes:
    return hmac.digest(key, role + transcript, "sha256")


def _plain(code: str) -> str:
    """The code's letters; raises UsageError (bad-code) where it cannot be one."""
    plain = code.upper().translate(_MISREAD)
    if len(plain) != CODE_LENGTH or not set(plain) <= set(BASE32):
        raise UsageError("A pairing code has 12 letters and digits, like ABCD-EFGH-JKLM.", code="bad-code")
    return plain


def _dial(name: str, port: int, timeout: float) -> socket.socket:
    try:
        return tls.dial(name, port, timeout=timeout, hint="run p.haul-service pair there first")
    except Unreachable as exc:
        if exc.code == "service-not-running":
            exc.code = "pairing-not-open"
        raise
