"""p.haul bundle: the logs of a haul, of both hosts, and nothing that must stay where it is."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from faults import at_point
from hauling import haul, refused
from lab import Host, Lab, workloads
from lab.service import Service

from phaul import journal, log_bundle

FILE = "/root/logs.tar"


def contents(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]


def bundle_of(host: Host) -> dict[str, dict[str, bytes]]:
    return {name: contents(data) for name, data in contents(host.path(FILE).read_bytes()).items()}


def test_the_logs_of_a_haul_that_failed(served: Lab) -> None:
    a, b = served.hosts
    workloads.counter(a, "count")
    command = at_point("p.haul", ("before=phaul.iters:Verify", "raise=asked"))
    failed = a.run(*command, "docker", "count", b.ip, check=False)
    assert failed.code != 0 and "p.haul bundle packs them" in failed.err
    said = haul(a, "bundle", "count", FILE).out
    assert FILE in said and b.ip in said
    found = bundle_of(a)
    assert {"p.haul.log", "dump.log"} <= found["source.tar.gz"].keys()
    assert {"p.haul-service.log", "restore.log"} <= found["target.tar.gz"].keys()
    assert b"criu" in found["target.tar.gz"]["restore.log"].lower()
    assert a.path(FILE).stat().st_mode & 0o777 == 0o600
    everything = b"".join(data for part in found.values() for data in part.values())
    for record in map(journal.read, a.path("/var/lib/phaul/journal").glob("*.source")):
        assert str(record.head["token"]).encode() not in everything


def test_a_target_that_does_not_answer_is_left_out(paired: Lab, clean_lab: Lab) -> None:
    a, b = paired.hosts
    workloads.counter(a, "count")
    with Service(b):
        haul(a, "docker", "count", b.ip)
    said = haul(a, "bundle", "count", FILE).out
    assert f"{b.ip} has given none" in said
    assert bundle_of(a).keys() == {"source.tar.gz"}


def test_another_peer_gets_nothing(paired: Lab, clean_lab: Lab) -> None:
    """The target tells of a haul only whose it is."""
    a, b = paired.hosts
    workloads.counter(a, "count")
    with Service(b):
        haul(a, "docker", "count", b.ip)
        for path in b.path("/var/lib/phaul/journal").glob("*.target"):
            path.write_text(path.read_text().replace(a.ip, "10.1.1.1"))
        said = haul(a, "bundle", "count", FILE).out
    assert "has given none" in said and bundle_of(a).keys() == {"source.tar.gz"}


def test_bad_input(served: Lab) -> None:
    a, b = served.hosts
    refused(haul(a, "bundle", "nobody", FILE, check=False), "no-haul")
    workloads.counter(a, "count")
    haul(a, "docker", "count", b.ip)
    refused(haul(a, "bundle", "count", "/no/such/place", check=False), "bundle-file", 2)


@pytest.mark.parametrize("most", [200_000, 20_000])
def test_the_ends_of_what_is_too_long(tmp_path: Path, most: int) -> None:
    (tmp_path / "a.log").write_bytes(os.urandom(2 << 20) + b"the end")
    (tmp_path / "b.log").write_bytes(b"short")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "directory").mkdir()
    data = log_bundle.packed(tmp_path, most)
    assert len(data) < most
    found = contents(data)
    assert found.keys() == {"a.log", "b.log"}
    assert found["a.log"].endswith(b"the end") and found["b.log"] == b"short"
    assert log_bundle.packed(tmp_path / "directory") == b""
