"""A paired target that lies learns nothing but of the container that comes to it, and changes nothing at the source."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from hauling import directory, haul, inspect, python, state, wait_for
from lab import Host, Lab
from lab.service import Service
from lab.workloads import check_counter, counter, ticks, wait_ticks

SECRET = b"of no container"
# A process of the source's own, which writes down its pid, and where its secret is.
SECRETIVE = f"""
import ctypes, os, time
page = ctypes.create_string_buffer({SECRET!r} * 1000)
with open("/run/secretive", "w") as file:
    file.write(f"{{os.getpid()}}:{{ctypes.addressof(page) + 4095 & -4096:x}}")
print("there", flush=True)
time.sleep(100000)
"""
HEARD = "/run/liar"


@pytest.fixture
def a(paired: Lab, clean_lab: Lab) -> Host:
    counter(paired.host("a"), "counter")
    return paired.host("a")


@pytest.fixture
def b(paired: Lab, clean_lab: Lab) -> Iterator[Host]:
    with directory(paired.host("b"), HEARD):
        yield paired.host("b")


def lying(b: Host, how: str, *more: str) -> Service:
    return Service(b, command=("python3", "/opt/phaul/test/liar.py", how, f"{HEARD}/heard", *more))


def heard(b: Host) -> bytes:
    path = b.path(f"{HEARD}/heard")
    return path.read_bytes() if path.exists() else b""


def mapped(a: Host) -> str:
    """Where the counter's stack is."""
    maps = a.path(f"/proc/{first(a)}/maps").read_text()
    line = next(line for line in maps.splitlines() if "[stack]" in line)
    return hex(int(line.split("-")[1].split()[0], 16) - 4096)


def first(a: Host) -> int:
    return int(inspect(a, "counter")["State"]["Pid"])


def test_memory_of_what_is_hauled_is_given(a: Host, b: Host) -> None:
    """Shows that the test below would hear of more."""
    with lying(b, "memory", f"1:{mapped(a)}"):
        under_way = a.popen("p.haul", "docker", "counter", b.ip, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: len(heard(b)) >= 20 + 4096, "what the source answers")
        finally:
            under_way.terminate()
            under_way.wait(60)
    assert b"ticker" in heard(b)
    assert (state(a, "counter"), state(b, "counter")) == ("running", "")


def test_memory_of_others_is_not(a: Host, b: Host) -> None:
    with python(a, SECRETIVE):
        secret = a.path("/run/secretive").read_text()
        others = [secret, f"{first(a)}:{mapped(a)}", f"2:{mapped(a)}", f"{0xFFFFFFFF}:0"]
        for other in others:
            with lying(b, "memory", other):
                done = haul(a, "docker", "counter", b.ip, check=False)
            assert done.code == 7 and "counter runs on here" in done.err and "which is not hauled" in done.err, done
            assert "[protocol]" in done.err
            assert heard(b) == b"" and b.path(f"{HEARD}/over").exists()
            b.path(f"{HEARD}/over").unlink()
            assert (state(a, "counter"), state(b, "counter")) == ("running", "")
    a.path("/run/secretive").unlink()
    check_counter(wait_ticks(a, "counter", ticks(a, "counter")[-1][0] + 20))


def test_what_it_says_is_only_read(a: Host, b: Host) -> None:
    """A terminal would act on it."""
    with lying(b, "words"):
        done = haul(a, "docker", "counter", b.ip, check=False)
    assert done.code == 7 and "owned it isyours" in done.err.replace("]0;", ""), done
    assert not {*"\x1b\x07\r"} & {*done.err}
    assert (state(a, "counter"), state(b, "counter")) == ("running", "")
