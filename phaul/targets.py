"""Where a haul goes: "10.0.0.2", "host.name" and "[::1]" by TLS, "user@host" by ssh."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from phaul import ssh, tls
from phaul.connection import Connection, greet
from phaul.errors import LinkLost, Unreachable, UsageError
from phaul.keys import Identity, Peers, is_address, peer_name
from phaul.places import ETC

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PAUSE_S = 0.5


@dataclass(frozen=True)
class Target:
    """A parsed address; `user` is empty unless it is to be reached by ssh."""

    host: str
    user: str = ""

    @property
    def by_ssh(self) -> bool:
        return bool(self.user)

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host


def parse(text: str) -> Target:
    """Raises UsageError (bad-address) where the text is no address of a target."""
    user, at, host = text.strip().rpartition("@")
    if at and not _USER.fullmatch(user):
        raise UsageError(f"{text!r} is no address: {user!r} is not a user's name.", code="bad-address")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not (_HOST.fullmatch(host) or is_address(host)):
        why = "no address; a port is given by --port" if ":" in host else "neither an address nor a hostname"
        raise UsageError(f"{text!r} is {why}.", code="bad-address")
    return Target(peer_name(host), user)


class Reach(Protocol):
    """A way to a target's service."""

    @property
    def name(self) -> str: ...

    def open(self, purpose: str, *, token: bytes = b"", channel: str = "", codec: str = "") -> Connection:
        """A new connection; `codec` is what its chunks to the target are packed with, "" for plain ones.

        Raises Unreachable, NotTrusted, ProtocolError, and what the service refuses with.
        """

    def close(self) -> None:
        """Give back what is shared between connections; these are to be closed before."""


class TlsReach:
    """Each connection is a TLS connection of its own."""

    def __init__(self, host: str, port: int, identity: Identity, peers: Peers) -> None:
        self.name = host
        self._port, self._identity, self._peers = port, identity, peers

    def open(self, purpose: str, *, token: bytes = b"", channel: str = "", codec: str = "") -> Connection:
        link = tls.connect(self.name, self._port, self._identity, self._peers)
        try:
            return greet(link, purpose, token, channel, codec)
        except BaseException:
            link.close()
            raise

    def close(self) -> None:
        pass


class SshReach:
    """All connections go through one ssh connection."""

    def __init__(self, destination: str) -> None:
        self.name = destination
        self._master = ssh.Master(destination)

    def open(self, purpose: str, *, token: bytes = b"", channel: str = "", codec: str = "") -> Connection:
        link = self._master.open()
        try:
            return greet(link, purpose, token, channel, codec)
        except LinkLost as exc:
            link.close()
            raise link.failure() or exc from None
        except BaseException:
            link.close()
            raise

    def close(self) -> None:
        self._master.close()


def reach(address: str, *, port: int = tls.PORT, identity: Identity | None = None, peers: Peers | None = None) -> Reach:
    """The way to an address; for TLS with this host's identity and peers unless others are given.

    Raises UsageError for what is no address, NotTrusted where this host's key cannot be used.
    """
    target = parse(address)
    if target.by_ssh:
        return SshReach(str(target))
    return TlsReach(target.host, port, identity or Identity.load_or_make(ETC), peers or Peers(ETC))


def connect_patiently(
    way: Reach, *, deadline_s: float, purpose: str = "control", token: bytes = b"", channel: str = ""
) -> Connection:
    """Open a connection, trying again while the target is unreachable, for `deadline_s` seconds.

    Raises the last Unreachable; at once what trying again would not change.
    """
    until = time.monotonic() + deadline_s
    pause = threading.Event()
    while True:
        try:
            return way.open(purpose, token=token, channel=channel)
        except Unreachable as exc:
            left = until - time.monotonic()
            if left <= 0 or exc.code == "service-not-installed":
                raise
        pause.wait(min(_PAUSE_S, left))
