"""This host's key and its peers: made once, private, and never another file than the one meant."""

from __future__ import annotations

import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509

from phaul.errors import NotTrusted, UsageError
from phaul.keys import Identity, Peers, der_of, peer_name


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity.load_or_make(tmp_path / "etc")


def test_made_once_and_private(tmp_path: Path, identity: Identity) -> None:
    assert mode(tmp_path / "etc") == 0o700
    assert {path.name: mode(path) for path in (tmp_path / "etc").iterdir()} == {"key.pem": 0o600, "cert.pem": 0o600}
    assert Identity.load_or_make(tmp_path / "etc") == identity


def test_many_programs_at_once_make_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: Identity.load_or_make(tmp_path / "etc"), range(16)))
    assert len(made) == 1


def test_key_and_certificate_belong_together(identity: Identity) -> None:
    asked = ["openssl", "pkey", "-in", identity.key, "-pubout"], ["openssl", "x509", "-in", identity.certificate]
    of_key = subprocess.run(asked[0], check=True, capture_output=True).stdout
    of_certificate = subprocess.run([*asked[1], "-noout", "-pubkey"], check=True, capture_output=True).stdout
    assert of_key == of_certificate


def test_certificate_holds_for_a_century_whatever_the_clock_says(identity: Identity) -> None:
    certificate = x509.load_pem_x509_certificate(identity.pem.encode())
    assert certificate.not_valid_before_utc.year == 1970
    assert certificate.not_valid_after_utc.year >= 2120


def test_fingerprint_is_what_openssl_computes(identity: Identity) -> None:
    command = f"openssl x509 -in {identity.certificate} -outform DER | openssl dgst -sha256 -binary | base64"
    digest = subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True).stdout
    assert identity.fingerprint == "SHA256:" + digest.strip().rstrip("=")


@pytest.mark.parametrize("lax", [0o640, 0o604, 0o660, 0o666, 0o700])
@pytest.mark.parametrize("name", ["key.pem", "cert.pem"])
def test_files_that_others_could_use_are_refused(tmp_path: Path, identity: Identity, name: str, lax: int) -> None:
    (tmp_path / "etc" / name).chmod(lax)
    with pytest.raises(NotTrusted, match=rf"{name} has mode {lax:04o}.*chmod 0600") as caught:
        Identity.load_or_make(tmp_path / "etc")
    assert caught.value.code == "lax-mode"


def test_a_certificate_that_was_lost_is_made_anew_from_the_key(tmp_path: Path, identity: Identity) -> None:
    key = identity.key.read_bytes()
    identity.certificate.unlink()
    again = Identity.load_or_make(tmp_path / "etc")
    assert again.key.read_bytes() == key
    assert again.pem != identity.pem


def test_peers_come_and_go(tmp_path: Path, identity: Identity) -> None:
    peers = Peers(tmp_path / "etc")
    assert peers.all() == [] and peers.certificate_for("10.0.0.1") is None
    peers.add("10.0.0.1", identity.pem)
    peers.add("Host.Example", identity.pem)
    peers.add("[FE80::1]", identity.pem)
    assert [peer.name for peer in peers.all()] == ["10.0.0.1", "fe80::1", "host.example"]
    assert peers.certificate_for("HOST.example") == identity.pem
    assert peers.all()[0].fingerprint == identity.fingerprint
    assert mode(tmp_path / "etc" / "peers") == 0o700
    assert {mode(path) for path in (tmp_path / "etc" / "peers").iterdir()} == {0o600}
    with pytest.raises(NotTrusted, match=r"p\.haul-service peers shows who is"):
        peers.revoke("10.0.0.2")


def test_a_host_is_revoked_by_all_of_its_names(tmp_path: Path, identity: Identity) -> None:
    peers, other = Peers(tmp_path / "etc"), Identity.load_or_make(tmp_path / "other")
    for name, one in (("10.0.0.1", identity), ("host.example", identity), ("10.0.0.2", other)):
        peers.add(name, one.pem)
    assert peers.revoke("HOST.example") == ["10.0.0.1", "host.example"]
    assert [peer.name for peer in peers.all()] == ["10.0.0.2"]


def test_what_is_no_use_as_a_pin_is_revoked_too(tmp_path: Path) -> None:
    peers = Peers(tmp_path)
    peers.directory.mkdir(parents=True)
    (peers.directory / "odd.pem").write_text("nonsense")
    assert peers.revoke("odd") == ["odd"] and list(peers.directory.iterdir()) == []


def test_a_peer_pinned_again_is_replaced(tmp_path: Path, identity: Identity) -> None:
    other = Identity.load_or_make(tmp_path / "other")
    peers = Peers(tmp_path / "etc")
    peers.add("a", identity.pem)
    peers.add("a", other.pem)
    assert peers.certificate_for("a") == other.pem
    assert [path.name for path in (tmp_path / "etc" / "peers").iterdir()] == ["a.pem"]


@pytest.mark.parametrize(
    "name", ["../key", "a/b", "/etc/x", ".hidden", "..", "", "a\0b", "a\nb", "-rf", "x" * 300, "ä"]
)
def test_names_that_could_lead_elsewhere_are_refused(tmp_path: Path, identity: Identity, name: str) -> None:
    peers = Peers(tmp_path / "etc")
    for use in (peers.certificate_for, peers.revoke, lambda name: peers.add(name, identity.pem)):
        with pytest.raises(UsageError, match="neither an address nor a hostname"):
            use(name)
    assert not (tmp_path / "etc" / "peers").exists()


@pytest.mark.parametrize(
    "pem", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_only_certificates_are_pinned(tmp_path: Path, pem: str) -> None:
    with pytest.raises(NotTrusted, match="is not a certificate"):
        Peers(tmp_path).add("a", pem)
    assert Peers(tmp_path).all() == []


def test_one_bad_peer_file_does_not_shut_the_others_out(tmp_path: Path, identity: Identity) -> None:
    peers = Peers(tmp_path)
    for name in ("good", "lax", "broken"):
        peers.add(name, identity.pem)
    (tmp_path / "peers" / "lax.pem").chmod(0o644)
    (tmp_path / "peers" / "broken.pem").write_text("nonsense")
    assert [peer.name for peer in peers.all()] == ["good"]
    for name in ("lax", "broken"):
        with pytest.raises(NotTrusted):
            peers.certificate_for(name)


def test_one_spelling_for_each_name() -> None:
    assert peer_name("::ffff:10.0.0.1") == "10.0.0.1"
    assert peer_name("[2001:DB8::0:1]") == "2001:db8::1"
    assert peer_name("Some.Host") == "some.host"


def test_der_is_what_the_pem_holds(identity: Identity) -> None:
    assert x509.load_der_x509_certificate(der_of(identity.pem)).subject
