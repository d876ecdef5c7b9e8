"""What a target cannot take is refused with one sentence that names it, and nothing is changed on either host."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

import pytest
from hauling import directory, haul, python, refusal, refused, stand_in, without_runtime
from lab import Host, Lab

SLEEP = ("busybox", "sleep", "100000")
MIB = 1 << 20
TAKE_PORT = """
import socket, time
taken = socket.socket(socket.AF_INET, socket.SOCK_{kind})
taken.bind(("{address}", 18080))
if "{kind}" == "STREAM":
    taken.listen()
print("ready", flush=True)
time.sleep(100000)
"""
# What a tool of another age says of its version, and where the hosts have it.
TOOLS = {
    "criu": ("/usr/sbin/criu", "Version: {}", "3.17.1"),
    "runc": ("/usr/sbin/runc", "runc version {}", "1.0.3"),
    "rsync": ("/usr/bin/rsync", "rsync  version {}  protocol version 31", "3.1.3"),
}


def start(host: Host, *arguments: str) -> None:
    host.docker("run", "-d", "--name", "bad", *arguments, *SLEEP)


@pytest.mark.parametrize("options", [(), ("--dst-id", "elsewhere")])
@pytest.mark.parametrize("running", [True, False])
def test_the_name_is_taken(a: Host, b: Host, options: tuple[str, ...], running: bool) -> None:
    start(a)
    name = options[-1] if options else "bad"
    b.docker(*(("run", "-d") if running else ("create",)), "--name", name, *SLEEP)
    said = refusal(a, b, "name-taken", *options)
    assert name in said and "--dst-id" in said


def test_a_volume_with_other_content(a: Host, b: Host) -> None:
    start(a, "-v", "data:/data")
    b.docker("run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo precious >/data/file")
    assert re.search(r"\bdata\b.*\bb\b", refusal(a, b, "volume-exists"))
    volume = b.engine.get("/volumes/data")["Mountpoint"]
    assert b.path(f"{volume}/file").read_text() == "precious\n"


@pytest.mark.parametrize(
    ("published", "kind", "address"),
    [
        ("18080:80", "STREAM", "0.0.0.0"),
        ("127.0.0.1:18080:80", "STREAM", "127.0.0.1"),
        ("18080:80/udp", "DGRAM", "0.0.0.0"),
    ],
)
def test_a_published_port_is_taken(a: Host, b: Host, published: str, kind: str, address: str) -> None:
    start(a, "-p", published)
    with python(b, TAKE_PORT.format(kind=kind, address=address)):
        assert re.search(r"18080/(tcp|udp) is taken on b", refusal(a, b, "port-taken"))


def test_a_port_that_a_container_publishes_there(a: Host, b: Host) -> None:
    start(a, "-p", "18080:80")
    b.docker("run", "-d", "--name", "other", "-p", "18080:80", *SLEEP)
    assert "18080/tcp is taken on b" in refusal(a, b, "port-taken")


def test_a_disk_that_is_too_small(a: Host, b: Host) -> None:
    start(a)
    disk = os.statvfs(b.path("/var/lib/docker"))
    used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    with disk_of(b, used + 32 * MIB):
        assert re.search(r"/var/lib/docker on b has \d\d MiB free", refusal(a, b, "disk-full"))


@contextlib.contextmanager
def disk_of(host: Host, size: int) -> Iterator[None]:
    """The host's disk has only that many bytes for a while: it is a tmpfs."""
    host.run("mount", "-o", f"remount,size={size}", "/var/lib/docker")
    try:
        yield
    finally:
        host.run("mount", "-o", "remount,size=90%", "/var/lib/docker")


def test_an_image_of_another_architecture(a: Host, b: Host) -> None:
    a.docker("create", "--name", "like", "busybox")
    a.run("sh", "-c", "docker export like | docker import --platform linux/arm64 - foreign:latest")
    a.docker("rm", "like")
    a.docker("run", "-d", "--name", "bad", "--platform", "linux/arm64", "foreign", "sleep", "100000")
    assert re.search("for arm64, b is amd64", refusal(a, b, "architecture"))


def test_an_image_name_that_means_another_image(a: Host, b: Host) -> None:
    for host in (a, b):
        host.docker("create", "--name", "like", "busybox")
        host.docker("commit", "like", "ours:1")
        host.docker("rm", "like")
    a.docker("run", "-d", "--name", "bad", "ours:1", "sleep", "100000")
    assert "ours:1" in refusal(a, b, "image-tag")


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_bind_mount_that_is_not_there(a: Host, b: Host, kind: str) -> None:
    with directory(a, "/srv/bound"):
        a.path("/srv/bound/file").write_text("x")
        source = "/srv/bound" if kind == "directory" else "/srv/bound/file"
        start(a, "-v", f"{source}:/data")
        said = refusal(a, b, "bind-missing")
        assert f"{kind} {source} is not on b" in said and "--copy-binds" in said
        assert not b.path("/srv/bound").exists()
        a.docker("rm", "-f", "bad")


def test_copied_binds_overwrite_nothing(a: Host, b: Host) -> None:
    with directory(a, "/srv/bound"), directory(b, "/srv/bound"):
        a.path("/srv/bound/file").write_text("ours")
        b.path("/srv/bound/file").write_text("theirs")
        start(a, "-v", "/srv/bound:/data")
        assert "/srv/bound" in refusal(a, b, "bind-exists", "--copy-binds")
        assert b.path("/srv/bound/file").read_text() == "theirs"
        a.docker("rm", "-f", "bad")


def test_a_network_of_another_kind(a: Host, b: Host) -> None:
    a.docker("network", "create", "ours")
    b.docker("network", "create", "-d", "macvlan", "-o", "parent=eth0", "ours")
    start(a, "--network", "ours")
    assert "ours on b has the driver macvlan, not bridge" in refusal(a, b, "network")


def test_the_restore_runtime_is_not_set_up(a: Host, b: Host) -> None:
    start(a)
    with without_runtime(b):
        said = refusal(a, b, "runtime-missing")
        assert "not set up on b: run p.haul-service setup there" in said


@pytest.mark.parametrize("where", ["a", "b"])
@pytest.mark.parametrize("age", ["missing", "too-old"])
@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_that_is_missing_or_too_old(served: Lab, a: Host, b: Host, tool: str, age: str, where: str) -> None:
    start(a)
    path, words, version = TOOLS[tool]
    script = None if age == "missing" else f"#!/bin/sh\necho '{words.format(version)}'\n"
    with stand_in(served.host(where), path, script):
        said = refusal(a, b, f"{tool}-{age}")
    assert said.startswith(tool) and ("this host" if where == "a" else "on b") in said
    assert ("install the package" if age == "missing" else f"{tool} {version}") in said


@pytest.mark.parametrize("where", ["a", "b"])
def test_pycriu_is_missing(served: Lab, a: Host, b: Host, where: str) -> None:
    module = "/usr/lib/python3/dist-packages/pycriu"
    host = served.host(where)
    with python(a, "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(100000)"):
        pid = next(pid for pid in pids_of(a, "time.sleep(100000)"))
        host.run("mv", module, f"{module}.away")
        try:
            said = refusal(a, b, "pycriu-missing", subject=pid, kind="pid")
        finally:
            host.run("mv", f"{module}.away", module)
    assert "python3-pycriu" in said and ("on this host" if where == "a" else "on b") in said


def pids_of(host: Host, words: str) -> list[str]:
    """The pids of the host's processes with these words in their command line."""
    found = []
    for entry in host.path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if words.encode() in entry.read_bytes() and b"python3" in entry.read_bytes():
                found.append(entry.parent.name)
    return found


def test_a_cpu_with_less_features(a: Host, b: Host) -> None:
    start(a)
    less = re.sub(r"^(flags\s*:.*) sse2\b", r"\1", a.path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    with stand_in(b, "/proc/cpuinfo", less):
        said = refusal(a, b, "cpu-features")
    assert "CPU of b lacks features that the program may use (sse2)" in said


def test_the_targets_engine_is_down(a: Host, b: Host) -> None:
    start(a)
    b.stop_dockerd()
    said = refused(haul(a, "docker", "bad", b.ip, check=False), "engine-down")
    b.start_dockerd()
    assert said.startswith("On b: No Docker engine answers")


def test_the_sources_engine_is_down(a: Host, b: Host) -> None:
    a.stop_dockerd()
    said = refused(haul(a, "docker", "bad", b.ip, check=False), "engine-down")
    a.start_dockerd()
    assert said.startswith("No Docker engine answers")
