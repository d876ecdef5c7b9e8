"""The door under attack, and who is shown it: those who were revoked, whose time is over, who replay, or only wait."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID
from faults import Halt, at_point
from hauling import haul, python, refused, state, wait_for
from lab import Done, Host, Lab
from lab import service as lab_service
from lab.service import PORT, Service
from lab.workloads import check_counter, counter, ticks, wait_ticks
from test_trust import HELLO, ping

from phaul.connection import PROTOCOL
from phaul.messages_pb2 import Hello

# A control connection that stays open: it says when it is, and how it ended.
KEPT = """
import sys
sys.path.insert(0, "/opt/phaul")
from phaul import targets, xem_rpc
from phaul.errors import PhaulError
from phaul.messages_pb2 import Ping, Request
with_service = xem_rpc.Caller(targets.reach(sys.argv[1]).open("control"))
with_service.call(Request(ping=Ping()))
print("open", flush=True)
try:
    print(repr(with_service.connection.link.recv(1, timeout=None)))
except PhaulError as error:
    print(error.code)
"""
# Everything that goes to the service, kept; ADDRESS, then where to keep it.
RECORDING = """
import socket, sys, threading
with socket.create_server(("127.0.0.9", 12345)) as server, open(sys.argv[2], "wb") as kept:
    print("ready", flush=True)
    client, _ = server.accept()
    there = socket.create_connection((sys.argv[1], 12345))
    def back():
        while piece := there.recv(65536):
            client.sendall(piece)
    threading.Thread(target=back, daemon=True).start()
    while piece := client.recv(65536):
        kept.write(piece)
        kept.flush()
        there.sendall(piece)
"""
REPLAY = """
import socket, sys
with socket.create_connection((sys.argv[1], 12345), 30) as peer:
    heard = b""
    try:
        peer.sendall(open(sys.argv[2], "rb").read())
        peer.shutdown(socket.SHUT_WR)
        while piece := peer.recv(4096):
            heard += piece
    except ConnectionResetError:
        pass
print(heard.hex())
"""
# Many connections that are not worth their while, until the end of its input; it says when all are open.
HALF_OPEN = """
import socket, sys
held = [socket.create_connection(("{address}", 12345), 60) for _ in range({count})]
print("ready", flush=True)
sys.stdin.read()
"""
# A byte of a TLS greeting on each connection, again and again.
SLOW = """
import socket, sys, threading
held = [socket.create_connection(("{address}", 12345), 60) for _ in range({count})]
greeting = b"\\x16\\x03\\x01\\x02\\x00\\x01\\x00\\x01\\xfc\\x03\\x03" + bytes(500)
print("ready", flush=True)
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
for at in range(len(greeting)):
    for one in held:
        try:
            one.sendall(greeting[at : at + 1])
        except OSError:
            pass
    if over.wait(0.5):
        break
"""
# A paired host that says its first message, of 260 bytes, one at a time: how many it could say.
SLOW_PAIRED = """
import sys, time
sys.path.insert(0, "/opt/phaul")
from phaul import keys, tls
from phaul.errors import LinkLost
link = tls.connect(sys.argv[1], 12345, keys.Identity.load_or_make(), keys.Peers())
print("open", flush=True)
try:
    for sent, byte in enumerate(bytes([0, 0, 1, 0]) + bytes(256)):
        link.send(bytes([byte]))
        time.sleep(0.1)
except LinkLost:
    pass
print(sent)
"""
SPEAK = """
import sys
sys.path.insert(0, "/opt/phaul")
from phaul import connection, keys, tls
from phaul.messages_pb2 import Hello, HelloReply
with_service = connection.Connection(tls.connect(sys.argv[1], 12345, keys.Identity.load_or_make(), keys.Peers()))
with_service.send(Hello(protocol=int(sys.argv[2]), version="0.0.9", purpose="control"))
print(with_service.recv(HelloReply).failure.code)
"""


@pytest.fixture
def a(paired: Lab, clean_lab: Lab) -> Host:
    return paired.host("a")


@pytest.fixture
def b(paired: Lab, clean_lab: Lab) -> Host:
    return paired.host("b")


@pytest.fixture
def service(b: Host) -> Iterator[Service]:
    with Service(b, strict=True) as running:
        yield running


def pinned(host: Host) -> set[str]:
    return {path.stem for path in host.path("/etc/phaul/peers").iterdir()}


# Revocation


def test_peers_are_shown(a: Host, b: Host) -> None:
    lines = dict(line.split("  ") for line in b.run("p.haul-service", "peers").out.splitlines())
    assert lines.keys() == pinned(b) and a.ip in lines
    fingerprint = re.search(r"SHA256:\S+", a.run("p.haul-service", "setup", timeout=120).out)
    assert fingerprint and set(lines.values()) == {fingerprint[0]}
    for name in pinned(b):
        b.path(f"/etc/phaul/peers/{name}.pem").unlink()
    assert b.run("p.haul-service", "peers").out == "No host is paired with this one.\n"


def test_a_revoked_host_is_out_at_once(a: Host, b: Host, service: Service) -> None:
    counter(a, "counter")
    names = pinned(b)
    kept = a.popen("python3", "-c", KEPT, b.ip, stdout=subprocess.PIPE)
    assert kept.stdout.readline() == b"open\n"
    said = b.run("p.haul-service", "revoke", a.ip).out
    assert said == "".join(f"{name} is not paired with this host any more.\n" for name in sorted(names))
    assert kept.communicate(timeout=30)[0] in (b"b''\n", b"link-lost\n") and pinned(b) == set()
    assert "its connection is ended" in service.log()
    assert ping(a, b).out == ""
    refused(haul(a, "docker", "counter", b.ip, check=False), "not-paired", 5)
    assert (state(a, "counter"), state(b, "counter")) == ("running", "")
    # And in again, as any other.
    lab_service.pair(a, b, fresh=False)
    assert ping(a, b).out == "done\n"


def test_others_stay_when_one_is_revoked(a: Host, b: Host, service: Service) -> None:
    b.path("/etc/phaul/peers/other.pem").write_bytes(b.path("/etc/phaul/cert.pem").read_bytes())
    b.path("/etc/phaul/peers/other.pem").chmod(0o600)
    kept = a.popen("python3", "-c", KEPT, b.ip, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert kept.stdout.readline() == b"open\n"
        assert b.run("p.haul-service", "revoke", "OTHER").out == "other is not paired with this host any more.\n"
        assert ping(a, b).out == "done\n" and kept.poll() is None
        assert "is ended" not in service.log()
    finally:
        kept.terminate()
        kept.communicate()


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        (("revoke", "10.1.2.3"), "not-paired", 5),
        (("revoke", "../cert"), "bad-name", 2),
        (("revoke",), "usage", 2),
        (("peers", "10.1.2.3"), "usage", 2),
        (("10.1.2.3",), "usage", 2),
    ],
)
def test_who_is_not_paired_cannot_be_revoked(a: Host, b: Host, words: tuple[str, ...], code: str, status: int) -> None:
    before = pinned(b)
    refused(b.run("p.haul-service", *words, check=False), code, status, program="p.haul-service")
    assert pinned(b) == before and b.path("/etc/phaul/cert.pem").exists()


def test_a_haul_of_a_host_that_is_revoked_is_undone(a: Host, b: Host) -> None:
    counter(a, "counter")
    with Halt(b) as halt:
        words = ("state=held", halt.word)
        with Service(b, command=at_point("p.haul-service", words), strict=True) as service:
            under_way = a.popen("p.haul", "docker", "counter", b.ip, stderr=subprocess.PIPE)
            halt.reached(service.process)
            b.run("p.haul-service", "revoke", a.ip)
            halt.go()
            complaints = under_way.communicate(timeout=120)[1]
            wait_for(lambda: not state(b, "counter"), "the target to give it up")
    assert under_way.returncode == 7 and b"runs on here" in complaints, complaints
    assert (state(a, "counter"), state(b, "counter")) == ("running", "")
    check_counter(wait_ticks(a, "counter", ticks(a, "counter")[-1][0] + 20))


# Certificates, protocols


def expired(host: Host) -> None:
    """The host's certificate is one whose time is over, of the same key."""
    key = load_pem_private_key(host.path("/etc/phaul/key.pem").read_bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"old {host.name}")])
    begin, end = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2020, 2021))
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(begin).not_valid_after(end)
    certificate = made.sign(key, SHA256()).public_bytes(Encoding.PEM)
    host.path("/etc/phaul/cert.pem").write_bytes(certificate)


@pytest.mark.parametrize("whose", ["a", "b"])
def test_a_certificate_whose_time_is_over(a: Host, b: Host, whose: str) -> None:
    counter(a, "counter")
    host, other = (a, b) if whose == "a" else (b, a)
    expired(host)
    for name in pinned(other):
        other.path(f"/etc/phaul/peers/{name}.pem").write_bytes(host.path("/etc/phaul/cert.pem").read_bytes())
    with Service(b) as service:
        said = refused(haul(a, "docker", "counter", b.ip, check=False), "certificate-expired", 5)
        assert ("This host's certificate" if whose == "a" else b.ip) in said and "pair again" in said
        if whose == "a":
            assert f"The certificate of {a.ip} has expired" in service.log()
    # As it says: a new certificate of the same key, and pairing.
    host.path("/etc/phaul/cert.pem").unlink()
    lab_service.pair(a, b)
    with Service(b):
        assert ping(a, b).out == "done\n"


def openssl(a: Host, b: Host, *options: str) -> Done:
    key = ("-cert", "/etc/phaul/cert.pem", "-key", "/etc/phaul/key.pem")
    return a.run("openssl", "s_client", "-connect", f"{b.ip}:{PORT}", *key, *options, input="", check=False)


@pytest.mark.parametrize(
    "options",
    [
        ("-tls1_2",),
        ("-tls1_2", "-cipher", "ALL:@SECLEVEL=0"),
        ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
        ("-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_8_SHA256"),
        ("-dtls1_2",),
    ],
    ids=" ".join,
)
def test_older_tls_and_weaker_ciphers_are_refused(a: Host, b: Host, service: Service, options: tuple[str, ...]) -> None:
    """With the pinned key: with TLS 1.3 and any other cipher it is let in."""
    assert "Cipher is TLS_AES" in openssl(a, b, "-tls1_3").out
    if "-dtls1_2" in options:
        options = (*options, "-timeout")
    done = openssl(a, b, *options)
    assert "Cipher is TLS" not in done.out and "Cipher is ECDHE" not in done.out, done
    assert ping(a, b).out == "done\n"


def test_an_older_protocol_is_not_spoken(a: Host, b: Host, service: Service) -> None:
    assert Hello.FromString(HELLO).protocol == PROTOCOL
    for number in (0, PROTOCOL - 1, PROTOCOL + 1):
        assert a.run("python3", "-c", SPEAK, b.ip, str(number)).out == "version-mismatch\n"


def test_what_was_heard_on_the_way_is_worth_nothing(a: Host, b: Host, service: Service) -> None:
    """All that a paired host ever sent, said again by who has no key: TLS hears no more than its greeting."""
    heard, pin = "/run/heard", a.path("/etc/phaul/peers/127.0.0.9.pem")
    pin.write_bytes(a.path(f"/etc/phaul/peers/{b.ip}.pem").read_bytes())
    pin.chmod(0o600)
    recorder = a.popen("python3", "-c", RECORDING, b.ip, heard, stdout=subprocess.PIPE)
    try:
        assert recorder.stdout.readline() == b"ready\n"
        recorded = a.run("python3", "-c", PING_AT.format(address="127.0.0.9"))
        assert recorded.out == "done\n"
        assert recorder.wait(30) is not None
        before = len(service.log().splitlines())
        said = bytes.fromhex(a.run("python3", "-c", REPLAY, b.ip, heard).out)
        wait_for(lambda: len(service.log().splitlines()) > before, "the service's line")
        assert "refused: " in service.log().splitlines()[-1]
        # The greeting is answered as any is; what follows it is not the answer to ours.
        assert HELLO not in said and b"done" not in said
        assert ping(a, b).out == "done\n"
    finally:
        recorder.kill()
        recorder.communicate()
        a.path(heard).unlink(missing_ok=True)


PING_AT = """
import sys
sys.path.insert(0, "/opt/phaul")
from phaul import targets, xem_rpc
from phaul.messages_pb2 import Ping, Request
with_service = xem_rpc.Caller(targets.reach("{address}").open("control"))
print(with_service.call(Request(ping=Ping())).WhichOneof("what"))
with_service.close()
"""

# Storms


def taken(service: Service) -> tuple[int, int]:
    """How many descriptors the service has, and how many threads."""
    there = Path(f"/proc/{service.pid}")
    return len(os.listdir(there / "fd")), len(os.listdir(there / "task"))


def resident(service: Service) -> int:
    """Bytes of its memory."""
    found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{service.pid}/status").read_text())
    assert found
    return int(found[1]) << 10


@pytest.mark.parametrize("program", [HALF_OPEN, SLOW], ids=["silent", "a byte at a time"])
def test_a_thousand_connections_keep_nobody_out(a: Host, b: Host, service: Service, program: str) -> None:
    counter(a, "warm")
    haul(a, "docker", "warm", b.ip)
    counter(a, "counter")
    before, memory = taken(service), resident(service)
    with python(a, program.format(address=b.ip, count=1000)):
        assert ping(a, b).out == "done\n"
        last = ticks(a, "counter")[-1][0]
        haul(a, "docker", "counter", b.ip)
        check_counter(wait_ticks(b, "counter", last))
        # Those that were let into a handshake, and as many that are on their way out.
        assert taken(service)[1] - before[1] <= 64 + 64
    wait_for(lambda: taken(service) <= before, f"what the service had before ({before})")
    assert service.running and resident(service) < memory + (32 << 20)


def test_a_paired_host_has_its_time_for_a_greeting_too(a: Host, b: Host) -> None:
    short = ("set=phaul.connection:HELLO_S=3",)
    with Service(b, command=at_point("p.haul-service", short), strict=True):
        slow = a.popen("python3", "-c", SLOW_PAIRED, b.ip, stdout=subprocess.PIPE)
        said = slow.communicate(timeout=60)[0].decode()
    greeted, sent = said.split()
    assert greeted == "open" and int(sent) < 200, said
