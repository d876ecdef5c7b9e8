"""TLS 1.3 between paired hosts: each end shows its certificate, and trusts exactly the pinned ones.

A client's handshake is over before the server has looked at the client's certificate. So the server
sends one byte, READY, once it trusts the client, and `connect` waits for it: a link that `connect`
returned is trusted at both ends.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import ssl
import time

from phaul.errors import LinkLost, NotTrusted, ProtocolError, Unreachable
from phaul.keys import Identity, Peer, Peers, der_of, fingerprint, must_be_private, peer_name
from phaul.link import Link, drain_tls_errors

LOG = logging.getLogger("phaul.tls")

PORT = 12345
READY = b"\x01"
_ALL = ("", "::", "*")
_OUT_OF_DATE = (9, 10)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID, _HAS_EXPIRED


def connect(address: str, port: int, identity: Identity, peers: Peers, *, timeout: float = 10.0) -> Link:
    """A link to the paired host that listens there, within about `timeout` seconds.

    Raises Unreachable (service-not-running, unreachable), NotTrusted (not-paired, wrong-key,
    certificate-expired), ProtocolError where something else listens, LinkLost.
    """
    pinned = peers.certificate_for(address)
    if pinned is None:
        raise NotTrusted(f"{address} is not paired with this host; run: p.haul pair {address}")
    context = _context(ssl.PROTOCOL_TLS_CLIENT, identity, [pinned])
    until = time.monotonic() + timeout
    with contextlib.ExitStack() as closing:
        raw = closing.enter_context(dial(address, port, timeout=timeout, hint="start p.haul-service there"))
        try:
            tls = closing.enter_context(_wrap(context, raw, until, server_side=False))
            tls.do_handshake()
            _must_be_pinned(tls, [Peer(address, pinned)])
            _must_be_ready(tls, address, until)
        except ssl.SSLCertVerificationError as exc:
            drain_tls_errors()
            if exc.verify_code in _OUT_OF_DATE:
                raise _expired(f"{address}'s certificate", f"there, and pair again: p.haul pair {address}") from exc
            raise _wrong_key(address, port, pinned, timeout) from exc
        except OSError as exc:
            drain_tls_errors()
            raise _client_failure(exc, address, port) from exc
        closing.pop_all()
    return Link(tls, address)


def accept(sock: socket.socket, identity: Identity, peers: Peers, *, timeout: float = 10.0) -> Link:
    """The link to whoever connected, if that is a paired host; the socket is the link's or closed.

    The peer has `timeout` seconds for the handshake. Raises NotTrusted, ProtocolError, LinkLost.
    """
    came_from = _remote(sock)
    with contextlib.ExitStack() as closing:
        closing.enter_context(sock)
        try:
            trusted = peers.all()
            context = _context(ssl.PROTOCOL_TLS_SERVER, identity, [peer.pem for peer in trusted])
            tls = closing.enter_context(_wrap(context, sock, time.monotonic() + timeout, server_side=True))
            closing.callback(_let_alert_arrive, tls)
            tls.do_handshake()
            name = _must_be_pinned(tls, trusted, prefer=came_from)
            shown = tls.getpeercert(binary_form=True) or b""
            tls.sendall(READY)
        except OSError as exc:
            drain_tls_errors()
            raise _server_failure(exc, came_from) from exc
        closing.pop_all()
    link = Link(tls, name)
    link.certificate = shown
    return link


def dial(address: str, port: int, *, timeout: float, hint: str) -> socket.socket:
    """A TCP connection; `hint` says what to do where nothing listens. Raises Unreachable."""
    host = address.removeprefix("[").removesuffix("]")
    try:
        return socket.create_connection((host, port), timeout)
    except ConnectionRefusedError:
        sentence = f"Nothing listens on port {port} of {address}: {hint}."
        raise Unreachable(sentence, code="service-not-running") from None
    except socket.gaierror as exc:
        raise Unreachable(f"The name {address} cannot be resolved: {exc.strerror}.") from exc
    except (OSError, UnicodeError) as exc:
        reason = "no answer" if isinstance(exc, TimeoutError) else getattr(exc, "strerror", None) or exc
        raise Unreachable(f"{address} cannot be reached: {reason}.") from exc


def listen(address: str, port: int, *, backlog: int = 128) -> socket.socket:
    """A listening TCP socket on an address, or on all ("" or "::"). Raises Unreachable (cannot-listen)."""
    host = address.removeprefix("[").removesuffix("]")
    try:
        if host in _ALL:
            if socket.has_dualstack_ipv6():
                return socket.create_server(("::", port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)
            host = "0.0.0.0"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as exc:
        reason = "something else uses it" if exc.errno == errno.EADDRINUSE else exc.strerror
        where = f"Port {port}" + ("" if host in _ALL else f" of {address}")
        raise Unreachable(f"{where} cannot be listened on: {reason}.", code="cannot-listen") from exc


def _context(side: int, identity: Identity, trusted: list[str]) -> ssl.SSLContext:
    must_be_private(identity.key)
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_TICKET
    if side == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    try:
        context.load_cert_chain(identity.certificate, identity.key)
        if trusted:
            context.load_verify_locations(cadata="\n".join(sorted(set(trusted))))
    except ssl.SSLError as exc:
        drain_tls_errors()
        raise NotTrusted(
            f"This host's key and certificate cannot be used ({exc.reason}): {identity.key}, {identity.certificate}.",
            code="bad-certificate",
        ) from exc
    return context


def _wrap(context: ssl.SSLContext, sock: socket.socket, until: float, *, server_side: bool) -> ssl.SSLSocket:
    # The socket's time-out is OpenSSL's deadline for the whole handshake.
    sock.settimeout(max(0.01, until - time.monotonic()))
    # A FIN is not proof that the peer ended the stream: it must have said so inside TLS.
    return context.wrap_socket(sock, server_side=server_side, do_handshake_on_connect=False, suppress_ragged_eofs=False)


def _must_be_pinned(tls: ssl.SSLSocket, trusted: list[Peer], *, prefer: str = "") -> str:
    """The name under which exactly the certificate that the peer showed is pinned."""
    shown = tls.getpeercert(binary_form=True)
    names = [peer.name for peer in trusted if der_of(peer.pem) == shown]
    if not names:
        raise ssl.SSLCertVerificationError("not a pinned certificate")
    return prefer if prefer in names else names[0]


def _must_be_ready(tls: ssl.SSLSocket, address: str, until: float) -> None:
    tls.settimeout(max(0.01, until - time.monotonic()))
    if tls.recv(len(READY)) != READY:
        raise NotTrusted(f"{address} has not paired this host; run: p.haul pair {address}")


def _wrong_key(address: str, port: int, pinned: str, timeout: float) -> NotTrusted:
    sentence = (
        f"{address} shows another key than the one this host paired with: it was set up anew, or is not that host."
    )
    lines = [f"pinned: {fingerprint(pinned)}"]
    with contextlib.suppress(OSError):
        # A failed handshake keeps what it was shown to itself: look again, trusting nobody.
        shown = ssl.get_server_certificate((address.strip("[]"), port), timeout=timeout)
        lines.append(f"shown:  {fingerprint(shown)}")
    drain_tls_errors()
    lines.append(f"If that is right, pair again: p.haul pair {address}")
    return NotTrusted(sentence, code="wrong-key", detail="\n".join(lines))


def _expired(whose: str, what: str) -> NotTrusted:
    """Those that P.Haul makes last for a century: the certificate is another's, or a clock is wrong."""
    sentence = f"{whose} has expired, or a clock is wrong: remove /etc/phaul/cert.pem {what}"
    return NotTrusted(sentence, code="certificate-expired")


def _client_failure(exc: OSError, address: str, port: int) -> Exception:
    if isinstance(exc, TimeoutError):
        return Unreachable(f"What listens on port {port} of {address} does not answer.")
    if not isinstance(exc, ssl.SSLError) or isinstance(exc, ssl.SSLEOFError):
        return LinkLost(f"{address} ended the connection before it was set up.")
    reason = exc.reason or ""
    if "CERTIFICATE_EXPIRED" in reason:
        return _expired("This host's certificate", f"here, and pair again: p.haul pair {address}")
    if "ALERT" in reason and ("CERT" in reason or "UNKNOWN_CA" in reason or "DENIED" in reason):
        return NotTrusted(f"{address} has not paired this host; run: p.haul pair {address}")
    return ProtocolError(f"What listens on port {port} of {address} is not a P.Haul service ({reason or exc}).")


def _server_failure(exc: OSError, came_from: str) -> Exception:
    if isinstance(exc, TimeoutError):
        return LinkLost(f"{came_from} did not complete its handshake in time.")
    if not isinstance(exc, ssl.SSLError) or isinstance(exc, ssl.SSLEOFError):
        return LinkLost(f"{came_from} left during its handshake.")
    reason = exc.reason or str(exc)
    if isinstance(exc, ssl.SSLCertVerificationError) and exc.verify_code in _OUT_OF_DATE:
        return _expired(f"The certificate of {came_from}", "there, and pair again")
    if isinstance(exc, ssl.SSLCertVerificationError) or "CERTIFICATE" in reason:
        return NotTrusted(f"{came_from} showed no certificate that this host has paired ({reason}).")
    return ProtocolError(f"{came_from} does not speak P.Haul's TLS ({reason}).")


def _let_alert_arrive(tls: ssl.SSLSocket) -> None:
    """Before a close, read what is unread: the reset that it would make can overtake our alert."""
    try:
        tls.shutdown(socket.SHUT_WR)
        tls.settimeout(1.0)
        until = time.monotonic() + 1.0
        while time.monotonic() < until and tls.recv(1 << 16):
            pass
    except (OSError, ValueError):
        LOG.debug("the peer of a refused connection left first")


def _remote(sock: socket.socket) -> str:
    try:
        return peer_name(str(sock.getpeername()[0]))
    except OSError:
        return "somebody"
