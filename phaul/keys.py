"""This host's key and certificate, and the certificates of the hosts that it trusts.

/etc/phaul/            0700
    key.pem            0600  EC P-256, made at first use
    cert.pem           0600  self-signed; the peers pin exactly this certificate
    peers/NAME.pem     0600  a pinned certificate; NAME is the address or hostname that it stands for
"""

from __future__ import annotations

import base64
import datetime
import fcntl
import hashlib
import ipaddress
import logging
import os
import re
import secrets
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from phaul.errors import NotTrusted, UsageError
from phaul.places import ETC, private_dir

LOG = logging.getLogger("phaul.keys")

# What the peer of this host's own socket is called, which no host may be.
LOCAL = "local"
_NAME = re.compile(r"[0-9A-Za-z:][0-9A-Za-z._:%-]{0,199}")
# Hosts that are to be paired need not agree on the time.
_VALID_FROM = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_VALID_FOR = datetime.timedelta(days=36525)


def fingerprint(pem: str) -> str:
    """What people compare: "SHA256:" and the unpadded base64 of the certificate's digest."""
    digest = hashlib.sha256(der_of(pem)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def der_of(pem: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem)


def peer_name(text: str) -> str:
    """The one spelling of an address or hostname; raises UsageError where it is neither."""
    name = text.strip().removeprefix("[").removesuffix("]").lower()
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        if not _NAME.fullmatch(name):
            raise UsageError(f"{text!r} is neither an address nor a hostname.", code="bad-name") from None
        return name
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def is_address(text: str) -> bool:
    """Whether a name that `peer_name` takes is an IP address."""
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Identity:
    """Who this host is: paths of its key and certificate, and the certificate itself."""

    key: Path
    certificate: Path
    pem: str

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.pem)

    @classmethod
    def load_or_make(cls, directory: Path = ETC) -> Identity:
        """The host's identity, made where there is none. Raises NotTrusted where others could read the key."""
        key, certificate = private_dir(directory) / "key.pem", directory / "cert.pem"
        with _only_one(directory):
            if not key.exists():
                certificate.unlink(missing_ok=True)
                _write(key, _new_key())
            must_be_private(key)
            if not certificate.exists():
                _write(certificate, _self_signed(key.read_bytes()))
        must_be_private(certificate)
        return cls(key, certificate, certificate.read_text())


@dataclass(frozen=True)
class Peer:
    """A trusted host: the name it is known by, and its pinned certificate."""

    name: str
    pem: str

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.pem)


class Peers:
    """The pinned certificates; every call reads the directory afresh."""

    def __init__(self, directory: Path = ETC) -> None:
        self.directory = directory / "peers"

    def all(self) -> list[Peer]:
        """Every trusted host by name; a file that others could have written is left out, with a warning."""
        peers = []
        for path in self._files():
            try:
                peers.append(Peer(path.stem, _pinned(path)))
            except NotTrusted as exc:
                LOG.warning("%s", exc.sentence)
        return peers

    def certificate_for(self, name: str) -> str | None:
        """The certificate pinned for a name. Raises NotTrusted where others could have written it."""
        path = self._path(name)
        return _pinned(path) if path.exists() else None

    def add(self, name: str, pem: str) -> None:
        """Pin a certificate in place of the former one. Raises UsageError for a name, NotTrusted for a certificate."""
        path = self._path(name)
        _must_be_certificate(pem, f"{name}'s certificate")
        private_dir(self.directory)
        _write(path, pem.encode())

    def revoke(self, name: str) -> list[str]:
        """Trust the host of that name no more, by whatever names its certificate is pinned: these.

        Raises NotTrusted where there is no pin of that name, UsageError for what is no name.
        """
        path = self._path(name)
        if not path.exists():
            sentence = f"{peer_name(name)} is not paired with this host: p.haul-service peers shows who is."
            raise NotTrusted(sentence)
        content = path.read_bytes()
        # A file that is no certificate, or that others could have written, goes as well.
        gone = {path, *(other for other in self._files() if other.read_bytes() == content)}
        for one in gone:
            one.unlink(missing_ok=True)
        _sync(self.directory)
        return sorted(one.stem for one in gone)

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("[!.]*.pem"))

    def _path(self, name: str) -> Path:
        return self.directory / f"{peer_name(name)}.pem"


def must_be_private(path: Path) -> None:
    """Raises NotTrusted (lax-mode) unless only root or we can read and write the file."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o177:
        mode = stat.S_IMODE(found.st_mode)
        raise NotTrusted(f"{path} has mode {mode:04o}: others could use it; chmod 0600 it.", code="lax-mode")
    if found.st_uid not in (0, os.geteuid()):
        raise NotTrusted(f"{path} belongs to uid {found.st_uid}: it must be root's.", code="lax-mode")


def _pinned(path: Path) -> str:
    try:
        must_be_private(path)
        pem = path.read_text(errors="replace")
    except OSError as exc:
        raise NotTrusted(f"{path} cannot be read: {exc.strerror}.", code="bad-certificate") from exc
    _must_be_certificate(pem, str(path))
    return pem


def _must_be_certificate(pem: str, what: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der_of(pem))
    except (ValueError, ssl.SSLError) as exc:
        raise NotTrusted(f"{what} is not a certificate.", code="bad-certificate") from exc


# cryptography is imported where a key is made alone: it takes a good part of p.haul's start.


def _new_key() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _self_signed(key_pem: bytes) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = serialization.load_pem_private_key(key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    # OpenSSL looks trusted certificates up by subject: a unique one keeps that exact.
    common = f"{socket.gethostname()[:40]} {secrets.token_hex(8)}"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_VALID_FROM)
        .not_valid_after(now + _VALID_FOR)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, content: bytes) -> None:
    """Put a whole file of mode 0600 in place, or none."""
    scratch = path.with_name(f".{secrets.token_hex(8)}.tmp")
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        scratch.rename(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Keep two programs that start at once from making two keys."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
