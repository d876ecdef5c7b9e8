"""What cannot be moved is refused with one sentence, a code and a status, and nothing is changed on either host."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hauling import haul, inspect, python, refusal, refused, state, unchanged, wait_for
from lab import Host, images

CAP_SYS_RESOURCE = 24
SLEEP = ("busybox", "sleep", "100000")
# Restarts wait twice as long each time, from 0.1 s on: before this one, p.haul has 12.8 s to look.
RESTARTS = 8

USAGE = [
    ([], "usage", "Known types: docker, pid"),
    (["frobnicate", "web", "10.0.0.2"], "unknown-type", "docker, pid"),
    (["docker"], "usage", "required: target"),
    (["docker", "web"], "usage", "target"),
    (["docker", "web", "10.0.0.2", "more"], "usage", "more"),
    (["docker", "web", "10.0.0.2", "--frobnicate"], "usage", "--frobnicate"),
    (["docker", "web", "10.0.0.2", "--dst-id", "a b"], "usage", "'a b' is no name"),
    (["docker", "web", "10.0.0.2", "--dst-id", "-rf"], "usage", "--dst-id"),
    *((["docker", "web", "10.0.0.2", "--port", port], "usage", "--port") for port in ("x", "0", "-1", "65536", "1e3")),
    (["pid", "1"], "usage", "target"),
    (["check"], "usage", "TYPE"),
    (["check", "frobnicate", "web", "10.0.0.2"], "unknown-type", "docker, pid"),
    (["check", "pair", "10.0.0.2"], "unknown-type", "docker, pid"),
    (["check", "docker", "web"], "usage", "target"),
    (["check", "docker", "web", "10.0.0.2", "--dst-id", "a b"], "usage", "'a b' is no name"),
    (["check", "docker", "web", "10.0.0.2", "--port", "x"], "usage", "--port"),
    (["pair"], "usage", "target"),
    (["pair", "10.0.0.2", "--code", "ABC"], "bad-code", "12 letters"),
    (["pair", "10.0.0.2/8", "--code", "ABCD-EFGH-JKLM"], "bad-name", "10.0.0.2/8"),
    (["--resolve"], "usage", "--resolve"),
]
SERVICE_USAGE = [
    (["frobnicate"], "usage", "frobnicate"),
    (["--port", "0x1"], "usage", "--port"),
    (["--frobnicate"], "usage", "--frobnicate"),
    (["pair", "--code", "ABC"], "bad-code", "12 letters"),
]
NO_ADDRESSES = [
    "",
    "a b",
    "a/b",
    "10.0.0.1:99",
    "[fe80::1]:99",
    "us er@host",
    "-oProxyCommand=x@host",
    "@host",
    "root@",
]
CONFIGURATIONS = {
    "tty": ["-t"],
    "privileged": ["--privileged"],
    "devices": ["--device", "/dev/zero:/dev/mine"],
    "links": ["--link", "other:alias"],
    "volumes-from": ["--volumes-from", "other"],
    "network-container": ["--network", "container:other"],
    "ipc-container": ["--ipc", "container:other"],
    "ipc-host": ["--ipc", "host"],
    "pid-mode": ["--pid", "host"],
}
IO_URING = """
import ctypes, sys, time
ring = ctypes.CDLL(None, use_errno=True).syscall(425, 4, ctypes.create_string_buffer(120))
print("ring" if ring >= 0 else "refused %d" % ctypes.get_errno(), flush=True)
time.sleep(100000)
"""
LISTEN = """
import socket
with socket.create_server(("", 18090)) as server:
    print("ready", flush=True)
    held = [server.accept() for _ in range(10)]
"""
IMMUTABLE = 0x10
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602


def start(host: Host, *arguments: str) -> str:
    return host.docker("run", "-d", "--name", "bad", *arguments, *SLEEP)


def test_command_lines_that_make_no_sense(a: Host, b: Host) -> None:
    with unchanged(a, b):
        for argv, code, words in USAGE:
            assert words in refused(haul(a, *argv, check=False), code, 2), argv
        for argv, code, words in SERVICE_USAGE:
            done = b.run("p.haul-service", *argv, check=False)
            assert words in refused(done, code, 2, program="p.haul-service"), argv


def test_what_is_no_address(a: Host, b: Host) -> None:
    start(a)
    with unchanged(a, b):
        for address in NO_ADDRESSES:
            said = refused(haul(a, "docker", "--", "bad", address, check=False), "bad-address", 2)
            assert repr(address) in said


def test_help_says_it_all(a: Host) -> None:
    for program, words in (
        ("p.haul", ("docker", "pid", "check", "pair", "--resolve")),
        ("p.haul-service", ("setup", "pair")),
    ):
        said = a.run(program, "--help").out
        assert all(word in said for word in (*words, "exit status:", "10 it runs at the target", "11 check:")), said


@pytest.mark.parametrize("subject", ["nosuch", "", "..", "bad/json?x=1", "bad%2fjson"])
def test_no_such_container(a: Host, b: Host, subject: str) -> None:
    start(a)
    assert repr(subject) in refusal(a, b, "no-such-container", subject=subject)


def test_a_prefix_of_more_than_one_id(a: Host, b: Host) -> None:
    ids: list[str] = []
    while len({container[0] for container in ids}) == len(ids):
        ids.append(a.docker("create", *SLEEP))
    assert repr(ids[-1][0]) in refusal(a, b, "ambiguous", subject=ids[-1][0])


@pytest.mark.parametrize("subject", ["nosuch", "0", "-1", "99999999", "bad", "", "²"])
def test_no_such_process(a: Host, b: Host, subject: str) -> None:
    with unchanged(a, b):
        refused(haul(a, "pid", "--", subject, b.ip, check=False), "no-such-process")
        refused(haul(a, "check", "pid", "--", subject, b.ip, check=False), "no-such-process")


def test_never_started(a: Host, b: Host) -> None:
    a.docker("create", "--name", "bad", *SLEEP)
    assert "(created)" in refusal(a, b, "not-running")


def test_stopped(a: Host, b: Host) -> None:
    a.docker("run", "--name", "bad", "busybox", "true")
    assert "(exited)" in refusal(a, b, "not-running")


def test_paused(a: Host, b: Host) -> None:
    start(a)
    a.docker("pause", "bad")
    assert "docker unpause bad" in refusal(a, b, "paused")
    assert state(a, "bad") == "paused"


def test_restarting(a: Host, b: Host) -> None:
    a.docker("run", "-d", "--name", "bad", "--restart", "always", "busybox", "false")

    def waits_for_long() -> bool:
        seen = inspect(a, "bad")
        return bool(seen["RestartCount"] >= RESTARTS and seen["State"]["Restarting"])

    wait_for(waits_for_long, f"{RESTARTS} restarts")
    refused(haul(a, "docker", "bad", b.ip, check=False), "restarting")
    assert inspect(a, "bad")["HostConfig"]["RestartPolicy"]["Name"] == "always"
    assert state(b, "bad") == ""


def test_dead(a: Host, b: Host) -> None:
    start(a)
    layer = a.path(inspect(a, "bad")["GraphDriver"]["Data"]["UpperDir"])
    with immutable(layer / "etc"):
        a.docker("rm", "-f", "bad", check=False)
        if not inspect(a, "bad")["State"]["Dead"]:
            pytest.skip("this Docker leaves no dead container behind when a layer cannot be removed")
        refusal(a, b, "dead")
    a.docker("rm", "-f", "bad")


@contextlib.contextmanager
def immutable(path: Path) -> Iterator[None]:
    """Nothing can be removed from the directory, made here, for a while. Skips where no file system can do that."""
    path.mkdir(exist_ok=True)
    (path / "stays").touch()
    handle = os.open(path, os.O_RDONLY)
    flags = array.array("l", [0])
    try:
        fcntl.ioctl(handle, FS_IOC_GETFLAGS, flags)
        fcntl.ioctl(handle, FS_IOC_SETFLAGS, array.array("l", [flags[0] | IMMUTABLE]))
    except OSError as error:
        os.close(handle)
        pytest.skip(f"nothing can be made immutable here ({error}), so no container can be made dead")
    try:
        yield
    finally:
        fcntl.ioctl(handle, FS_IOC_SETFLAGS, flags)
        os.close(handle)


@pytest.mark.parametrize("code", CONFIGURATIONS)
def test_configurations_that_cannot_be_moved(a: Host, b: Host, code: str) -> None:
    a.docker("run", "-d", "--name", "other", "--ipc", "shareable", "-v", "/data", *SLEEP)
    start(a, *CONFIGURATIONS[code])
    assert refusal(a, b, code).startswith("Container bad ")


@pytest.mark.parametrize("inside", ["/var/run/docker.sock", "/elsewhere"])
def test_the_engines_socket(a: Host, b: Host, inside: str) -> None:
    start(a, "-v", f"/run/docker.sock:{inside}")
    assert inside in refusal(a, b, "docker-socket")


def test_every_reason_is_told_at_once(a: Host, b: Host) -> None:
    start(a, "-t", "--privileged", "-v", "/srv/only-here:/data")
    try:
        with unchanged(a, b):
            done = haul(a, "docker", "bad", b.ip, check=False)
    finally:
        a.path("/srv/only-here").rmdir()
    assert done.code == 3 and "[tty]" in done.err
    assert [word for word in ("terminal", "privileged", "/srv/only-here") if word not in done.err] == []
    assert len(done.err.splitlines()) == 4


def test_io_uring(a: Host, b: Host) -> None:
    programs = ("-v", "/usr:/usr:ro", "-v", "/usr/lib:/lib:ro", "-v", "/usr/lib64:/lib64:ro")
    unconfined = ("--security-opt", "seccomp=unconfined")
    a.docker("run", "-d", "--name", "bad", *programs, *unconfined, "busybox", "/usr/bin/python3", "-c", IO_URING)
    said = wait_for(lambda: a.docker("logs", "bad"), "the program's word")
    if said != "ring":
        pytest.skip(f"this kernel gives out no io_uring: {said}")
    assert "io_uring" in refusal(a, b, "io-uring")


def test_an_exec_session(a: Host, b: Host) -> None:
    start(a)
    session = a.popen("docker", "exec", "bad", "sleep", "100000")
    try:
        wait_for(lambda: inspect(a, "bad")["ExecIDs"], "the session")
        wait_for(lambda: "sleep 100000" in a.docker("top", "bad").partition("sleep 100000")[2], "its program")
        assert "docker exec" in refusal(a, b, "exec-running")
    finally:
        session.kill()
        session.wait()


def test_a_connection_to_outside(a: Host, b: Host) -> None:
    with python(a, LISTEN):
        start_connected = f"sleep 100000 | nc {a.ip} 18090"
        a.docker("run", "-d", "--name", "bad", "busybox", "sh", "-c", start_connected)
        pid = inspect(a, "bad")["State"]["Pid"]
        established = f" {18090:04X} 01 "
        table = a.path(f"/proc/{pid}/net/tcp")
        wait_for(lambda: established in table.read_text().replace(":", " "), "the connection")
        assert f"{a.ip}:18090" in refusal(a, b, "connections")


def test_a_stopped_program(a: Host, b: Host) -> None:
    start(a)
    a.docker("kill", "-s", "STOP", "bad")
    pid = inspect(a, "bad")["State"]["Pid"]
    wait_for(lambda: "T (stopped)" in a.path(f"/proc/{pid}/status").read_text(), "the stop")
    assert "kill -CONT" in refusal(a, b, "task-stopped")


def test_tasks_that_are_not_roots(a: Host, b: Host) -> None:
    capabilities = int(re.findall(r"^CapEff:\s*(\w+)", a.run("cat", "/proc/self/status").out, re.MULTILINE)[0], 16)
    if capabilities >> CAP_SYS_RESOURCE & 1:
        pytest.skip("this machine has CAP_SYS_RESOURCE, so that such tasks can be dumped")
    start(a, "-u", "1234")
    assert "1234" in refusal(a, b, "cap-sys-resource")


def test_not_root(a: Host, b: Host) -> None:
    start(a)
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")
    with unchanged(a, b):
        check = ["check", "docker", "bad", b.ip]
        for argv in (["docker", "bad", b.ip], check, ["pid", "1", b.ip], ["pair", b.ip], ["--resolve", "bad"]):
            refused(a.run(*nobody, "p.haul", *argv, check=False), "not-root")
        for argv in ([], ["setup"], ["pair"], ["--stdio"]):
            done = b.run(*nobody, "p.haul-service", *argv, check=False)
            refused(done, "not-root", program="p.haul-service")


def test_no_image_is_loaded_for_a_refused_haul(a: Host, b: Host) -> None:
    images.remove(b, "busybox")
    start(a, "-t")
    refusal(a, b, "tty")
    assert not images.has(b, "busybox")
