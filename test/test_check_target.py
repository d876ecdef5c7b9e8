"""What a target is, or has, that a haul would fail on: found before anything is touched."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hauling import checked, directory, python, refusal, stand_in, unchanged, wait_for
from lab import Host, Lab
from lab.service import Service

SLEEP = ("busybox", "sleep", "100000")
TAKE_PORT = """
import socket, time
with socket.create_server(("", 18090)):
    print("ready", flush=True)
    time.sleep(100000)
"""
# On a host's own network.
SERVE = """
import socket, time
kept = socket.create_server(("{address}", 18090))
print("ready", flush=True)
time.sleep(100000)
"""
PYTHON = ("-v", "/usr:/usr:ro", "-v", "/usr/lib:/lib:ro", "-v", "/usr/lib64:/lib64:ro", "busybox", "/usr/bin/python3")
NEWER = {
    "criu": ("/usr/sbin/criu", "Version: 99.1", "CRIU"),
    "runc": ("/usr/sbin/runc", "runc version 99.1", "runc"),
}


@pytest.fixture
def bad(a: Host) -> str:
    """A container that nothing speaks against."""
    return a.docker("run", "-d", "--name", "bad", *SLEEP)


def test_nothing_speaks_against_it(a: Host, b: Host, bad: str) -> None:
    with unchanged(a, b):
        done, found = checked(a, b)
    assert (done.code, found["verdict"], found["findings"]) == (0, "movable", [])


def test_the_restore_runtime_is_of_another_version(a: Host, b: Host, bad: str) -> None:
    installed = b.path("/usr/local/lib/phaul/hold.sh")
    saved = installed.read_bytes()
    installed.write_bytes(saved + b"# of another time\n")
    try:
        assert "run p.haul-service setup there" in refusal(a, b, "runtime-outdated")
    finally:
        installed.write_bytes(saved)


def test_fewer_processors(a: Host, b: Host) -> None:
    if a.engine.get("/info")["NCPU"] < 2:
        pytest.skip("this machine has a single processor: no target has fewer")
    for name, wish in WISHES.items():
        a.docker("run", "-d", "--name", name, *wish.split(), *SLEEP)
    with fewer_processors(b):
        for name, wish in WISHES.items():
            assert f"b has 1 processor, the container was run with {wish}" in refusal(a, b, "cpus", subject=name)
    assert [checked(a, b, subject=name)[0].code for name in WISHES] == [0, 0]


WISHES = {"by-time": "--cpus 2", "by-number": "--cpuset-cpus 0-1"}


@contextlib.contextmanager
def fewer_processors(host: Host) -> Iterator[None]:
    """The host's engine may use one processor alone: it gets from here what this process may use."""
    allowed = os.sched_getaffinity(0)
    host.stop_dockerd()
    os.sched_setaffinity(0, {min(allowed)})
    try:
        host.start_dockerd()
        os.sched_setaffinity(0, allowed)
        yield
    finally:
        os.sched_setaffinity(0, allowed)
        host.stop_dockerd()
        host.start_dockerd()


def test_a_kernel_setting_that_is_not_there(a: Host, b: Host) -> None:
    a.docker("run", "-d", "--name", "bad", "--sysctl", "net.ipv4.ip_unprivileged_port_start=80", *SLEEP)
    empty = "/proc/sys/net/ipv4"
    b.run("mount", "-t", "tmpfs", "none", empty)
    try:
        assert "has no net.ipv4.ip_unprivileged_port_start" in refusal(a, b, "sysctl")
    finally:
        b.run("umount", empty)


@contextlib.contextmanager
def engine_of(host: Host, **options: Any) -> Iterator[None]:
    """The host's engine runs with these settings, with its data in a directory of their own."""
    file = host.path("/etc/docker/daemon.json")
    saved = file.read_text()
    # Where the engine's data are otherwise, since an overlay is no place for them.
    top, root = host.path("/var/lib/docker"), "/var/lib/docker/of-a-test"
    mode = top.stat().st_mode
    host.stop_dockerd()
    top.chmod(mode | 0o001)  # what mapped users need
    file.write_text(json.dumps({**json.loads(saved), "data-root": root, **options}))
    try:
        host.start_dockerd()
        yield
    finally:
        with contextlib.suppress(Exception):
            host.stop_dockerd()
        file.write_text(saved)
        host.run("rm", "-rf", root)
        top.chmod(mode)
        host.start_dockerd()


def test_another_storage_driver(a: Host, b: Host, bad: str) -> None:
    with engine_of(b, **{"storage-driver": "vfs"}):
        assert "uses the storage driver vfs" in refusal(a, b, "storage-driver")


def test_users_that_are_mapped(a: Host, b: Host, bad: str) -> None:
    files = [b.path(f"/etc/sub{kind}id") for kind in "ug"]
    saved = [file.read_text() for file in files]
    try:
        for file in files:
            file.write_text("65534:100000:65536\n")
        with engine_of(b, **{"userns-remap": "nobody:nogroup"}):
            assert "user namespaces (userns)" in refusal(a, b, "userns")
    finally:
        for file, text in zip(files, saved, strict=True):
            file.write_text(text)


@pytest.mark.parametrize("tool", NEWER)
def test_a_tool_that_is_older_there(a: Host, b: Host, bad: str, tool: str) -> None:
    path, words, name = NEWER[tool]
    with stand_in(a, path, f"#!/bin/sh\necho '{words}'\n"), unchanged(a, b):
        done, found = checked(a, b)
    (one,) = found["findings"]
    assert (done.code, one["level"], one["code"]) == (11, "warning", f"{tool}-older")
    assert one["reason"].startswith(name) or one["reason"].startswith(name.capitalize())
    assert "is older than 99.1" in one["reason"] and one["subject"] == "b"


def serve(host: Host, address: str) -> None:
    host.docker("run", "-d", "--name", "bad", "--network", "host", *PYTHON, "-c", SERVE.format(address=address))
    wait_for(lambda: "ready" in host.docker("logs", "bad"), "the program's word")


def test_a_port_of_the_hosts_own_network(a: Host, b: Host) -> None:
    serve(a, "")
    with python(b, TAKE_PORT):
        assert "Port 18090/tcp is taken on b" in refusal(a, b, "port-taken")
    assert checked(a, b)[1]["verdict"] == "warnings"  # of what it sees of /usr


def test_an_address_that_is_the_sources_own(a: Host, b: Host) -> None:
    serve(a, a.ip)
    assert f"{a.ip}, which is no address of b" in refusal(a, b, "bound-address")


@pytest.mark.parametrize("there", ["nothing", "something"])
def test_a_volume_that_is_a_directory(a: Host, b: Host, there: str) -> None:
    options = ("--opt", "type=none", "--opt", "o=bind", "--opt", "device=/srv/kept")
    with contextlib.ExitStack() as stack:
        stack.enter_context(directory(a, "/srv/kept"))
        a.docker("volume", "create", *options, "data")
        a.docker("run", "-d", "--name", "bad", "-v", "data:/data", *SLEEP)
        if there == "something":
            stack.enter_context(directory(b, "/srv/kept"))
            b.path("/srv/kept/precious").write_text("theirs")
            assert "Volume data is in /srv/kept, which is not empty on b" in refusal(a, b, "volume-exists")
            assert b.path("/srv/kept/precious").read_text() == "theirs"
        else:
            assert "Volume data is in /srv/kept, which is not on b" in refusal(a, b, "volume-device")
        a.docker("rm", "-f", "bad")
        a.docker("volume", "rm", "data")


@pytest.mark.parametrize("there", ["nothing", "an empty directory"])
def test_a_directory_where_nothing_can_be_written(a: Host, b: Host, there: str) -> None:
    with directory(a, "/srv/bound"):
        a.docker("run", "-d", "--name", "bad", "-v", "/srv/bound:/bound", *SLEEP)
        b.run("mount", "-t", "tmpfs", "none", "/srv")
        try:
            b.run("mkdir", *(() if there == "nothing" else ("/srv/bound",)), "/srv/other")
            b.run("mount", "-o", "remount,ro", "/srv")
            said = refusal(a, b, "bind-read-only", "--copy-binds")
        finally:
            b.run("umount", "/srv")
        a.docker("rm", "-f", "bad")
    assert "/srv/bound on b is on a read-only file system" in said


def test_too_little_memory(a: Host, b: Host) -> None:
    hold = "import os, time; kept = os.urandom(64 << 20); print('ready', flush=True); time.sleep(100000)"
    a.docker("run", "-d", "--name", "bad", *PYTHON, "-c", hold)
    wait_for(lambda: "ready" in a.docker("logs", "bad"), "the program's word")
    little = re.sub(r"(MemAvailable:\s+)\d+", r"\g<1>32768", b.path("/proc/meminfo").read_text())
    with stand_in(b, "/proc/meminfo", little):
        assert re.search(r"b has 32 MiB of memory available, the container holds \d\d MiB", refusal(a, b, "memory"))


def test_a_mode_that_cannot_be(a: Host, b: Host, bad: str) -> None:
    """CRIU says that it, or the kernel, has no userfaultfd."""
    with stand_in(a, "/usr/sbin/criu", "#!/bin/sh\n[ $1 = --version ] && echo Version: 4.2.1\n"):
        said = refusal(a, b, "mode", "--mode", "postcopy")
    assert "--mode postcopy is not possible here: CRIU and the kernel of this host cannot restore lazily" in said


def test_compression_that_cannot_be(a: Host, b: Host, bad: str) -> None:
    module = "/usr/lib/python3/dist-packages/zstandard"
    a.run("mv", module, f"{module}.away")
    try:
        assert "python3-zstandard on this host" in refusal(a, b, "compress", "--compress", "zstd")
    finally:
        a.run("mv", f"{module}.away", module)


# A service that sees another host than there is

OTHER_KERNEL = ("setarch", "--uname-2.6", "p.haul-service")
MOUNTS = 'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup && exec p.haul-service "$@"'
OTHER_CGROUPS = ("unshare", "--mount", "sh", "-c", MOUNTS, "sh")


def test_an_old_kernel(paired: Lab, clean_lab: Lab) -> None:
    a, b = clean_lab.hosts
    a.docker("run", "-d", "--name", "bad", *SLEEP)
    with Service(b, command=OTHER_KERNEL):
        said = refusal(a, b, "kernel-too-old")
        assert re.match(r"Kernel 2\.6\.\S+ on b is too old: 5\.15 or newer", said)
        assert [one["code"] for one in checked(a, b)[1]["findings"]] == ["kernel-too-old", "kernel-older"]


def test_other_cgroups(paired: Lab, clean_lab: Lab) -> None:
    a, b = clean_lab.hosts
    if a.path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("these hosts have cgroup v2 alone: v1 cannot be mounted beside it")
    a.docker("run", "-d", "--name", "bad", *SLEEP)
    with Service(b, command=OTHER_CGROUPS):
        assert "This host has cgroup v1, b has v2" in refusal(a, b, "cgroup-version")
