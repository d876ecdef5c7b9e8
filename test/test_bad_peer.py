"""A target that is not there, not trusted or of another version: one sentence, its status, nothing changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hauling import haul, python, refused, unchanged
from lab import Host, Lab, images
from lab.service import Service

from phaul.connection import PROTOCOL

SLEEP = ("busybox", "sleep", "100000")
# The real service, of a P.Haul that speaks another protocol.
OTHER_SERVICE = """\
#!/usr/bin/python3
import sys
sys.path.insert(0, "/opt/phaul")
from phaul import connection, service_args
connection.PROTOCOL, connection.VERSION = {protocol}, "{version}"
sys.exit(service_args.main())
"""
SOMETHING_ELSE = """
import socket
with socket.create_server(("", 12345)) as server:
    print("ready", flush=True)
    while True:
        peer, _ = server.accept()
        peer.sendall(b"220 mail.example ESMTP\\r\\n")
        peer.recv(1000)
        peer.close()
"""


@pytest.fixture
def a(paired: Lab, clean_lab: Lab) -> Host:
    host = paired.host("a")
    images.load(host, "busybox")
    host.docker("run", "-d", "--name", "bad", *SLEEP)
    return host


@pytest.fixture
def b(paired: Lab, clean_lab: Lab) -> Host:
    return paired.host("b")


def pin(host: Host, address: str) -> Path:
    return host.path(f"/etc/phaul/peers/{address}.pem")


def refusal(a: Host, b: Host, address: str, code: str, status: int, *, details: int = 0) -> str:
    with unchanged(a, b):
        return refused(haul(a, "docker", "bad", address, check=False), code, status, details=details)


def test_nobody_has_the_address(a: Host, b: Host) -> None:
    nobody = b.ip.rpartition(".")[0] + ".250"
    pin(a, nobody).write_bytes(pin(a, b.ip).read_bytes())
    pin(a, nobody).chmod(0o600)
    assert nobody in refusal(a, b, nobody, "unreachable", 4)


def test_the_cable_is_pulled(paired: Lab, a: Host, b: Host) -> None:
    with Service(b):
        paired.cut("b")
        assert b.ip in refusal(a, b, b.ip, "unreachable", 4)


def test_no_service_runs(a: Host, b: Host) -> None:
    said = refusal(a, b, b.ip, "service-not-running", 4)
    assert b.ip in said and "start p.haul-service there" in said


def test_the_service_listens_elsewhere(a: Host, b: Host) -> None:
    with Service(b, "--port", "12399", port=12399):
        refusal(a, b, b.ip, "service-not-running", 4)


def test_the_source_has_not_paired_the_target(a: Host, b: Host) -> None:
    pin(a, b.ip).unlink()
    with Service(b):
        assert f"p.haul pair {b.ip}" in refusal(a, b, b.ip, "not-paired", 5)


def test_the_target_has_not_paired_the_source(a: Host, b: Host) -> None:
    for path in b.path("/etc/phaul/peers").iterdir():
        path.unlink()
    with Service(b):
        assert f"{b.ip} has not paired this host" in refusal(a, b, b.ip, "not-paired", 5)


def test_another_key_than_the_pinned_one(a: Host, b: Host) -> None:
    pin(a, b.ip).write_bytes(a.path("/etc/phaul/cert.pem").read_bytes())
    with Service(b):
        said = refusal(a, b, b.ip, "wrong-key", 5, details=3)
    assert f"{b.ip} shows another key" in said


def test_something_else_listens_there(a: Host, b: Host) -> None:
    with python(b, SOMETHING_ELSE):
        assert "not a P.Haul service" in refusal(a, b, b.ip, "protocol", 6)


@pytest.mark.parametrize(("protocol", "version", "older"), [(0, "0.0.1", "10."), (PROTOCOL + 1, "9.0", "this host")])
def test_another_protocol_version(a: Host, b: Host, protocol: int, version: str, older: str) -> None:
    launcher = b.path("/run/other/p.haul-service")
    launcher.parent.mkdir(exist_ok=True)
    launcher.write_text(OTHER_SERVICE.format(protocol=protocol, version=version))
    launcher.chmod(0o755)
    with Service(b, env={"PATH": "/run/other:/usr/sbin:/usr/bin"}):
        said = refusal(a, b, b.ip, "version-mismatch", 6)
    assert f"speaks protocol {protocol} (P.Haul {version})" in said
    assert f"upgrade P.Haul on {older}" in said


@pytest.mark.parametrize("lax", ["key.pem", "cert.pem"])
def test_a_key_that_others_can_read(a: Host, b: Host, lax: str) -> None:
    a.path(f"/etc/phaul/{lax}").chmod(0o644)
    with Service(b):
        assert "chmod 0600" in refusal(a, b, b.ip, "lax-mode", 5)
