"""What a container does at the source that no haul could bring to the target: found before anything is touched."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hauling import checked, configure_engine, directory, haul, inspect, python, refusal, unchanged, wait_for
from lab import Host

SLEEP = ("busybox", "sleep", "100000")
# Python and its libraries, which the image has not.
PYTHON = ("-v", "/usr:/usr:ro", "-v", "/usr/lib:/lib:ro", "-v", "/usr/lib64:/lib64:ro")
UNCONFINED = ("--security-opt", "seccomp=unconfined", "--cap-add", "SYS_ADMIN")
BEGIN = """
import ctypes, os, socket, struct, time
libc = ctypes.CDLL(None, use_errno=True)
kept = []

def attempt(name, act):
    try:
        kept.append(act())
        print("can", name, flush=True)
    except OSError as error:
        print("cannot", name, error, flush=True)

def call(number, *arguments):
    got = libc.syscall(number, *arguments)
    if got < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return got
"""
END = """
print("ready", flush=True)
time.sleep(100000)
"""
# What can be had in one container: a word for the finding's reason, its code, and how to get it (x86_64's numbers).
ODD = {
    "perf_event": ("descriptor", "call(298, struct.pack('IIQQQQQ', 1, 120, 0, 0, 0, 0, 1) + bytes(80), 0, -1, -1, 0)"),
    "userfaultfd": ("descriptor", "call(323, 1)"),
    "landlock-ruleset": ("descriptor", "call(444, struct.pack('Q', 1), 8, 0)"),
    "fscontext": ("descriptor", "call(430, b'tmpfs', 0)"),
    "secret memory": ("descriptor", "call(447, 0)"),
    "MPTCP": ("socket", "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)"),
    "AF_VSOCK": ("socket", "socket.socket(40, socket.SOCK_STREAM)"),
}
NESTED = {"pid": 0x20000000, "user": 0x10000000, "net": 0x40000000, "uts": 0x04000000, "ipc": 0x08000000}
NESTED |= {"cgroup": 0x02000000, "time": 0x80}
UNSHARE = """
def unshare(flag):
    if libc.unshare(flag):
        raise OSError(ctypes.get_errno(), "unshare")
    if os.fork():  # a child, which the namespaces of pids and of time are for
        os.wait()
    print("ready", flush=True)
    time.sleep(100000)

if not os.fork():
    unshare({flag})
time.sleep(100000)
"""
BOUND = """
address = socket.gethostbyname(socket.gethostname())
kept.append(socket.socket(socket.AF_INET, socket.SOCK_{kind}))
kept[0].bind((address, 18090))
if "{kind}" == "STREAM":
    kept[0].listen()
"""
LISTEN = """
import os, socket, time
os.makedirs("/run/outside", exist_ok=True)
stream = socket.socket(socket.AF_UNIX)
stream.bind("/run/outside/stream")
stream.listen()
datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
datagrams.bind("/run/outside/datagrams")
print("ready", flush=True)
kept = [stream.accept() for _ in range(10)]
"""
OVERLAY = """
mkdir -p /m/lower /m/tmpfs /m/overlay && mount -t tmpfs t /m/tmpfs && mkdir /m/tmpfs/upper /m/tmpfs/work &&
mount -t overlay o -o lowerdir=/m/lower,upperdir=/m/tmpfs/upper,workdir=/m/tmpfs/work /m/overlay && echo ready
exec tail -f /dev/null
"""
SEIZE = """
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
print("seized" if libc.ptrace(0x4206, {pid}, None, None) == 0 else "not", flush=True)
time.sleep(100000)
"""


def start(host: Host, *arguments: str) -> None:
    """Run the container until it says that it is ready."""
    host.docker("run", "-d", "--name", "bad", *arguments)
    wait_for(lambda: "ready" in host.docker("logs", "bad"), "the program's word")


def start_python(host: Host, program: str, *options: str) -> None:
    start(host, *PYTHON, *UNCONFINED, *options, "busybox", "/usr/bin/python3", "-uc", BEGIN + program)


def test_what_a_program_has_open(a: Host, b: Host) -> None:
    program = "".join(f"attempt({name!r}, lambda: {how})\n" for name, (_, how) in ODD.items())
    start_python(a, program + END)
    can = dict(line.split(maxsplit=1)[::-1] for line in a.docker("logs", "bad").splitlines()[:-1] if "can " in line)
    with unchanged(a, b):
        done, found = checked(a, b)
    reasons = {(one["code"], one["reason"]) for one in found["findings"] if one["level"] == "blocker"}
    assert done.code == 3 and len(reasons) == len(can)
    for name in can:
        assert [code for code, reason in reasons if f"({name})" in reason] == [ODD[name][0]], name
    assert haul(a, "docker", "bad", b.ip, check=False).code == 3
    if lacking := ODD.keys() - can.keys():
        pytest.skip(f"all else is found; this machine's kernel gives out no {', '.join(sorted(lacking))}")


@pytest.mark.parametrize("kind", NESTED)
def test_namespaces_of_its_own(a: Host, b: Host, kind: str) -> None:
    if not Path(f"/proc/self/ns/{kind}").exists():
        pytest.skip(f"this machine's kernel has no {kind} namespaces")
    start_python(a, UNSHARE.format(flag=NESTED[kind]))
    assert f"({kind})" in refusal(a, b, "nested-namespace")


@pytest.mark.parametrize("kind", ["STREAM", "DGRAM"])
def test_a_socket_at_its_own_address(a: Host, b: Host, kind: str) -> None:
    start_python(a, BOUND.format(kind=kind) + END)
    address = inspect(a, "bad")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert f"{address}:18090" in refusal(a, b, "bound-address")


@pytest.mark.parametrize("kind", ["stream", "datagrams"])
def test_a_unix_socket_to_another_program(a: Host, b: Host, kind: str) -> None:
    with python(a, LISTEN), directory(b, "/run/outside"):
        of = "SOCK_STREAM" if kind == "stream" else "SOCK_DGRAM"
        connect = f"kept.append(socket.socket(socket.AF_UNIX, socket.{of}))\nkept[0].connect('/outside/{kind}')\n"
        start_python(a, connect + END, "-v", "/run/outside:/outside")
        assert "(python3)" in refusal(a, b, "unix-socket")
        a.docker("rm", "-f", "bad")
    a.run("rm", "-rf", "/run/outside")


def test_sockets_of_the_container_among_themselves_are_no_obstacle(a: Host, b: Host) -> None:
    connect = "kept += socket.socketpair()\nlistener = socket.socket(socket.AF_UNIX)\nlistener.bind('/in')\n"
    connect += "listener.listen()\nkept.append(socket.socket(socket.AF_UNIX))\nkept[-1].connect('/in')\n"
    start_python(a, connect + "kept.append(socket.create_server(('', 18090)))\n" + END)
    assert checked(a, b)[1]["verdict"] == "warnings"  # of what it sees of /usr


def test_a_file_system_that_was_mounted_inside(a: Host, b: Host) -> None:
    start(a, *UNCONFINED, "--security-opt", "apparmor=unconfined", "busybox", "sh", "-c", OVERLAY)
    assert "overlay is mounted on /m/overlay" in refusal(a, b, "mount-inside")


def test_a_debugger(a: Host, b: Host) -> None:
    a.docker("run", "-d", "--name", "bad", *SLEEP)
    with python(a, SEIZE.format(pid=inspect(a, "bad")["State"]["Pid"])):
        assert "detach the debugger" in refusal(a, b, "task-stopped")


def test_another_runtime(a: Host, b: Host) -> None:
    file = a.path("/etc/docker/daemon.json")
    document = json.loads(file.read_text())
    document["runtimes"]["another"] = {"path": "/usr/sbin/runc"}
    configure_engine(a, document)
    wait_for(lambda: "another" in a.engine.get("/info")["Runtimes"], "the engine to learn of the runtime")
    a.docker("run", "-d", "--name", "bad", "--runtime", "another", *SLEEP)
    assert "run by another" in refusal(a, b, "runtime")


def test_a_mount_of_another_type(a: Host, b: Host) -> None:
    done = a.run(
        "docker", "run", "-d", "--name", "bad", "--mount", "type=image,source=busybox,target=/m", *SLEEP, check=False
    )
    if done.code:
        pytest.skip(f"this Docker mounts no images: {done.err.strip()[:120]}")
    assert "of type image at /m" in refusal(a, b, "mount-type")


def test_rules_that_criu_has_left(a: Host, b: Host) -> None:
    a.docker("run", "-d", "--name", "bad", *SLEEP)
    pid = inspect(a, "bad")["State"]["Pid"]
    nft = ("nsenter", "-t", str(pid), "-n", "nft")
    if (made := a.run(*nft, "add", "table", "inet", "CRIU-17", check=False)).code:
        pytest.skip(f"there are no nftables here: {made.err.strip()}")
    done, found = checked(a, b)
    (one,) = found["findings"]
    assert (done.code, found["verdict"]) == (11, "warnings")
    assert (one["level"], one["code"]) == ("warning", "firewall-left")
    a.run(*re.search(r"\((nsenter .*)\)", one["remedy"])[1].split())
    assert checked(a, b)[1]["findings"] == []


def test_what_is_bound_in_but_not_the_same(a: Host, b: Host) -> None:
    """A file that is open is missing, is of another size, or has not grown as far; a fifo is missing."""
    with directory(a, "/srv/bound"), directory(b, "/srv/bound"):
        for host in (a, b):
            host.path("/srv/bound/read").write_text("12345")
            host.path("/srv/bound/written").write_text("12345")
            os.mkfifo(host.path("/srv/bound/fifo"))
        opened = "kept += [open('/data/read'), open('/data/written', 'a'), os.open('/data/fifo', os.O_RDWR)]\n"
        start_python(a, opened + END, "-v", "/srv/bound:/data")
        assert (done := checked(a, b))[0].code == 11, done
        for spoil, words in SPOILT.items():
            b.run("sh", "-c", f"cd /srv/bound && {spoil}")
            assert words in refusal(a, b, "bind-differs")
            b.run(
                "sh",
                "-c",
                "cd /srv/bound && printf 12345 >read && printf 123456 >written && mkfifo fifo 2>&-",
                check=False,
            )
        assert checked(a, b)[0].code == 11  # what is written to may have grown meanwhile
        a.docker("rm", "-f", "bad")


SPOILT = {
    "rm read": "/srv/bound/read is missing",
    "printf 1234 >read": "read has 4 bytes instead of 5",
    "printf 1234 >written": "written has 4 bytes instead of 5",
    "rm fifo": "/srv/bound/fifo is missing",
}


def test_what_is_bound_in_is_told_and_the_haul_goes_on(a: Host, b: Host) -> None:
    with directory(a, "/srv/bound"), directory(b, "/srv/bound"):
        a.docker("run", "-d", "--name", "bad", "-v", "/srv/bound:/data", *SLEEP)
        with unchanged(a, b):
            done, found = checked(a, b)
        (one,) = found["findings"]
        assert (done.code, one["level"], one["code"]) == (11, "warning", "bind-shared")
        said = haul(a, "docker", "bad", b.ip).out
        assert f"Warning: {one['reason']}: {one['remedy']}.\n" in said
        for host in (a, b):
            host.docker("rm", "-f", "bad")
