"""What speaks against a haul of a process without a container, and against one to the source itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hauling import checked, haul, python, refusal, unchanged
from lab import Host, Lab
from lab.service import Service, pair

# Far from what other processes of either host get.
PID = 21_000
START = """
import subprocess
none = subprocess.DEVNULL
open("/proc/sys/kernel/ns_last_pid", "w").write("{last}")
print(subprocess.Popen(["sleep", "100000"], stdin=none, stdout=none, stderr=none, start_new_session={session}).pid)
"""
CONNECTED = """
import os, socket, time
os.setsid()
server = socket.create_server(("{address}", 0))
client = socket.create_connection(server.getsockname())
print("ready", flush=True)
time.sleep(100000)
"""


@pytest.fixture
def processes(a: Host, b: Host) -> Iterator[None]:
    """What is started in the test ends with it."""
    yield
    for host in (a, b):
        host.run("pkill", "-KILL", "-f", "sleep 100000", check=False)


def start(host: Host, *, session: bool = True) -> str:
    return host.run("python3", "-c", START.format(last=PID - 1, session=session)).out.strip()


def test_nothing_speaks_against_it(a: Host, b: Host, processes: None) -> None:
    with unchanged(a, b):
        done, found = checked(a, b, subject=start(a), kind="pid")
        a.run("pkill", "-KILL", "-f", "sleep 100000")
    assert (done.code, found["verdict"], found["findings"]) == (0, "movable", [])
    assert [part["kind"] for part in found["copied"]] == ["memory"]
    assert "Docker" not in found["source"]["facts"]


def test_its_pid_is_taken(a: Host, b: Host, processes: None) -> None:
    assert start(a) == start(b)
    assert f"Pid {PID} is in use on b" in refusal(a, b, "pid-taken", subject=str(PID), kind="pid")


def test_the_file_for_its_pid_is_there(a: Host, b: Host, processes: None) -> None:
    said = refusal(a, b, "file-exists", "--dst-rpid", "/etc/hostname", subject=start(a), kind="pid")
    assert "/etc/hostname exists on b" in said


def test_it_is_of_a_shells_session(a: Host, b: Host, processes: None) -> None:
    assert "--shell-job" in refusal(a, b, "shell-job", subject=start(a, session=False), kind="pid")


def test_files_that_it_needs_are_others_there(a: Host, b: Host, processes: None) -> None:
    a.run("cp", "/usr/bin/sleep", "/usr/local/bin/sleep")
    try:
        pid = start(a)
        assert "/usr/local/bin/sleep is missing on b" in refusal(a, b, "file-differs", subject=pid, kind="pid")
    finally:
        a.run("rm", "/usr/local/bin/sleep")


def test_the_first_process(a: Host, b: Host) -> None:
    with unchanged(a, b):
        done, found = checked(a, b, subject="1", kind="pid")
    assert done.code == 3 and found["findings"][0]["code"] == "not-movable"
    assert found["findings"][0]["reason"].startswith("Process 1 is the host's first process")


def test_an_ancestor_of_the_one_that_asks(a: Host, b: Host) -> None:
    with unchanged(a, b):
        done = a.run("sh", "-c", f"p.haul check pid -j $$ {b.ip}; exit $?", check=False)
    assert done.code == 3 and "is an ancestor of this p.haul. [not-movable]" in " ".join(done.out.split())


def test_its_own_connections(a: Host, b: Host) -> None:
    with python(a, CONNECTED.format(address=a.ip)):
        pid = a.run("pgrep", "-f", "os.setsid").out.split()[0]
        done, found = checked(a, b, subject=pid, kind="pid")
    assert done.code == 3 and "connections" in [one["code"] for one in found["findings"]]
    assert {one["fate"] for one in found["connections"]} == {"refused"}


def test_the_target_is_the_source_itself(paired: Lab, clean_lab: Lab) -> None:
    a, _ = clean_lab.hosts
    a.docker("run", "-d", "--name", "bad", "busybox", "sleep", "100000")
    pair(a, a, fresh=False)
    with Service(a):
        assert "name another one" in refusal(a, a, "same-host")
        assert haul(a, "docker", "bad", a.ip, check=False).code == 3


def test_the_service_sees_other_mounts_than_the_host(paired: Lab, clean_lab: Lab) -> None:
    a, b = clean_lab.hosts
    with Service(b, command=("unshare", "--mount", "p.haul-service")):
        said = refusal(a, b, "service-confined", subject=start(a), kind="pid")
    assert "start p.haul-service there by hand" in said
