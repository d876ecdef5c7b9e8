"""Who may speak to a service: paired hosts, and root by ssh. Everybody else learns nothing, and costs it one line."""

from __future__ import annotations

import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hauling import haul, python, refused, stand_in, state, summary, wait_for
from lab import Done, Host, Lab
from lab import service as lab_service
from lab.service import LISTENING, PAIRING_PORT, PORT, Service, wait_listening
from lab.workloads import check_counter, counter, ticks, wait_ticks

from phaul.connection import PROTOCOL
from phaul.messages_pb2 import Hello

CODE, OTHER_CODE = "ABCD-EFGH-JKLM", "ABCD-EFGH-JKLN"
WORK = "/var/lib/phaul/work"
# What a paired host would begin with, then the announcement of a message that is too long: the service answers both.
HELLO = Hello(protocol=PROTOCOL, version="0.2.0", purpose="control").SerializeToString()
SPEECH = struct.pack(">I", len(HELLO)) + HELLO + b"\x7f\x7f\x7f\x7f"
PING = """
import sys
sys.path.insert(0, "/opt/phaul")
from phaul import targets, xem_rpc
from phaul.messages_pb2 import Ping, Request
with_service = xem_rpc.Caller(targets.reach(sys.argv[1]).open("control"))
print(with_service.call(Request(ping=Ping())).WhichOneof("what"))
with_service.close()
"""
SAY_IN_CLEAR = """
import socket, sys
with socket.create_connection((sys.argv[1], 12345), 30) as peer:
    try:
        peer.sendall(bytes.fromhex(sys.argv[2]))
        peer.shutdown(socket.SHUT_WR)
        heard = b"".join(iter(lambda: peer.recv(4096), b""))
    except ConnectionResetError:
        heard = b""
print(heard.hex())
"""
HALF_OPEN = """
import socket, time
held = [socket.create_connection(("{address}", 12345), 30) for _ in range(200)]
print("ready", flush=True)
time.sleep(100000)
"""
STRANGERS_WORDS = {
    "random": bytes((number * 167 + 13) % 251 for number in range(600)),
    "hello": SPEECH,
    "http": b"GET / HTTP/1.1\r\nHost: b\r\n\r\n",
    "half a record": b"\x16\x03\x01\x02\x00\x01",
}
# Like criu, but first it writes down what of P.Haul's is there.
WATCHING_CRIU = f"""#!/bin/sh
find {WORK} -printf '%m %y %u %P\\n' >>/run/seen
exec /run/criu.real "$@"
"""


@pytest.fixture
def a(paired: Lab, clean_lab: Lab) -> Host:
    return paired.host("a")


@pytest.fixture
def b(paired: Lab, clean_lab: Lab) -> Host:
    return paired.host("b")


@pytest.fixture
def service(b: Host) -> Iterator[Service]:
    with Service(b) as running:
        yield running


def ping(a: Host, b: Host) -> Done:
    return a.run("python3", "-c", PING, b.ip, check=False)


def s_client(a: Host, b: Host, *options: str) -> str:
    """What the service says to openssl's client, which tells nothing of its own here."""
    words = ["openssl", "s_client", "-connect", f"{b.ip}:{PORT}", "-tls1_3", "-quiet", *options]
    return a.run(*words, input=SPEECH.decode("ascii"), check=False).out


def warnings(service: Service) -> list[str]:
    return [line for line in service.log().splitlines() if " WARNING " in line]


def one_line(service: Service, words: str) -> None:
    """The service has said nothing but one line with these words."""
    wait_for(lambda: len(service.log().splitlines()) > 1, "the service's line")
    _, *said = service.log().splitlines()
    assert len(said) == 1 and words in said[0], said


def make_key(host: Host, directory: str) -> tuple[str, ...]:
    """A self-signed certificate that nobody has pinned, as options for openssl's client."""
    key, certificate = f"{directory}/key.pem", f"{directory}/cert.pem"
    host.run("mkdir", "-p", directory)
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=a")
    host.run("openssl", "req", "-x509", *kind, "-keyout", key, "-out", certificate)
    return ("-cert", certificate, "-key", key)


def test_openssl_with_the_pinned_key_is_answered(a: Host, b: Host, service: Service) -> None:
    """Shows that the tests below would notice an answer."""
    heard = s_client(a, b, "-cert", "/etc/phaul/cert.pem", "-key", "/etc/phaul/key.pem")
    assert heard.startswith("\x01\0\0\0") and "0.2.0" in heard and "at most" in heard


def test_openssl_without_a_key_gets_nothing(a: Host, b: Host, service: Service) -> None:
    assert s_client(a, b) == ""
    one_line(service, "refused: ")


def test_openssl_with_a_key_that_is_not_pinned_gets_nothing(a: Host, b: Host, service: Service) -> None:
    assert s_client(a, b, *make_key(a, "/tmp/stranger")) == ""
    one_line(service, "refused: ")


def test_openssl_with_the_services_own_certificate_gets_nothing(a: Host, b: Host, service: Service) -> None:
    """A certificate is public: without its key it is worth nothing."""
    key = make_key(a, "/tmp/stranger")[3]
    a.path("/tmp/stranger/b.pem").write_bytes(b.path("/etc/phaul/cert.pem").read_bytes())
    assert s_client(a, b, "-cert", "/tmp/stranger/b.pem", "-key", key) == ""


@pytest.mark.parametrize("words", STRANGERS_WORDS)
def test_words_in_clear_get_nothing_but_an_alert(a: Host, b: Host, service: Service, words: str) -> None:
    heard = bytes.fromhex(a.run("python3", "-c", SAY_IN_CLEAR, b.ip, STRANGERS_WORDS[words].hex()).out)
    assert heard == b"" or (len(heard) == 7 and heard[0] == 0x15), heard
    one_line(service, "refused: ")
    assert ping(a, b).out == "done\n"


def test_two_hundred_half_open_connections_keep_nobody_out(a: Host, b: Host, service: Service) -> None:
    counter(a, "counter")
    with python(a, HALF_OPEN.format(address=b.ip)):
        for _ in range(3):
            assert ping(a, b).out == "done\n"
        before = ticks(a, "counter")[-1][0]
        haul(a, "docker", "counter", b.ip)
        check_counter(wait_ticks(b, "counter", before))
    assert service.running
    others = [line for line in warnings(service) if "connection was dropped" not in line and "left during" not in line]
    assert not others, others


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_and_doors_are_roots_alone(a: Host, b: Host, service: Service) -> None:
    for host in (a, b):
        top = host.path("/etc/phaul")
        found = {str(path.relative_to(top)): path for path in top.rglob("*")}
        assert {"key.pem", "cert.pem", "peers"} < found.keys()
        assert mode(top) == 0o700
        assert {name: mode(path) for name, path in found.items()} == {
            name: 0o700 if path.is_dir() else 0o600 for name, path in found.items()
        }
    assert mode(b.path("/run/phaul")) == 0o700
    assert mode(b.path("/run/phaul/service.sock")) == 0o600
    assert mode(b.path("/var/log/phaul")) == 0o700


def test_only_root_may_use_the_local_door(b: Host, service: Service) -> None:
    """Also where somebody opened its directory and its mode."""
    b.run("chmod", "0777", "/run/phaul", "/run/phaul/service.sock")
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    program = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/phaul/service.sock'); print(s.recv(9))"
    done = b.run(*nobody, "python3", "-c", program, check=False)
    assert done.out.strip() in ("b''", "") and done.code in (0, 1), done
    one_line(service, "only root may")


def test_memory_is_roots_alone_and_wiped(a: Host, b: Host, service: Service) -> None:
    counter(a, "counter")
    for host in (a, b):
        host.path("/run/criu.real").write_bytes(host.path("/usr/sbin/criu").read_bytes())
        host.path("/run/criu.real").chmod(0o755)
        host.path("/run/seen").unlink(missing_ok=True)
    with stand_in(a, "/usr/sbin/criu", WATCHING_CRIU), stand_in(b, "/usr/sbin/criu", WATCHING_CRIU):
        haul(a, "docker", "counter", b.ip)
    for host in (a, b):
        seen = [line.split() for line in host.path("/run/seen").read_text().splitlines()]
        assert any("images" in words[3:] or words[-1].endswith("/images") for words in seen), host.name
        assert {tuple(words[:3]) for words in seen if words[1] == "d"} == {("700", "d", "root")}
        assert list(host.path(WORK).iterdir()) == []
    received = [line for line in b.path("/run/seen").read_text().splitlines() if line.endswith(".img")]
    assert received and all(line.startswith("600 f root") for line in received)


@pytest.mark.parametrize("where", [(), ("--img-path", "/srv/pictures")])
def test_images_that_are_kept_are_roots_alone(a: Host, b: Host, service: Service, where: tuple[str, ...]) -> None:
    counter(a, "counter")
    a.path("/srv/pictures").mkdir(exist_ok=True)
    try:
        haul(a, "docker", "counter", b.ip, "--keep-images", *where)
        (kept,) = a.path(where[1] if where else WORK).iterdir()
        assert mode(kept) == mode(kept / "images") == 0o700
        assert (kept / "images" / "inventory.img").exists()
        assert list(b.path(WORK).iterdir()) == []
    finally:
        a.run("rm", "-rf", "/srv/pictures")


def peers(host: Host) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in host.path("/etc/phaul/peers").iterdir()}


def test_pairing_with_a_wrong_code_pins_nothing(a: Host, b: Host) -> None:
    for host in (a, b):
        for name in peers(host):
            host.path(f"/etc/phaul/peers/{name}").unlink()
    offer = b.popen("p.haul-service", "pair", "--code", CODE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_listening(b, PAIRING_PORT, offer)
    for _ in range(3):
        refused(haul(a, "pair", b.ip, "--code", OTHER_CODE, check=False), "wrong-code", 5)
    said, complaints = offer.communicate(timeout=60)
    assert offer.returncode == 5 and b"[wrong-code]" in complaints, (said, complaints)
    assert peers(a) == peers(b) == {}
    refused(haul(a, "pair", b.ip, "--code", CODE, check=False), "pairing-not-open", 4)
    lab_service.pair(a, b)
    assert peers(a) and peers(b)


def test_a_pin_that_is_removed_is_worth_nothing_at_once(a: Host, b: Host, service: Service) -> None:
    counter(a, "counter")
    assert ping(a, b).out == "done\n"
    for name in peers(b):
        b.path(f"/etc/phaul/peers/{name}").unlink()
    assert ping(a, b).out == ""
    refused(haul(a, "docker", "counter", b.ip, check=False), "not-paired", 5)
    assert (state(a, "counter"), state(b, "counter")) == ("running", "")


def tcp_ports(host: Host) -> set[int]:
    """The TCP ports that something in the host listens on."""
    tables = [Path(f"/proc/{host.pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table]
    return {int(words[1].rpartition(":")[2], 16) for words in lines if words[3] == LISTENING}


def test_ssh_moves_a_counter_and_nothing_listens(a: Host, b: Host) -> None:
    for host in (a, b):
        host.run("rm", "-rf", "/etc/phaul/peers")
    counter(a, "counter")
    lab_service.allow_ssh(a, b)
    try:
        done = haul(a, "docker", "counter", f"root@{b.ip}")
        assert tcp_ports(b) == {22}
        service_runs = [path for path in b.path("/proc").glob("[0-9]*/cmdline") if b"--unix" in path.read_bytes()]
        assert service_runs
    finally:
        b.run("sh", "-c", "kill $(cat /run/sshd.pid)")
    moved = ticks(a, "counter")[-1][0]
    check_counter(wait_ticks(b, "counter", moved))
    assert state(a, "counter") == "exited"
    assert summary(done).downtime > 0


def test_ssh_that_is_not_let_in(a: Host, b: Host) -> None:
    counter(a, "counter")
    said = refused(haul(a, "docker", "counter", f"nobody@{b.ip}", check=False), "ssh-failed", 4)
    assert f"ssh to nobody@{b.ip} failed" in said
    assert state(a, "counter") == "running"
