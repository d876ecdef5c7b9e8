"""`p.haul pid`: a process with threads moves between hosts that share a file system."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from hauling import haul, refused, wait_for
from lab import Host, Lab

SHARED = "/srv/shared"
THREADS = 3
# Far from what other processes of either host get: the process keeps its pids.
FIRST_PID = 20_000

PROGRAM = """
import sys, threading, time

ballast = bytes(range(256)) * (16 << 12)  # 16 MiB, which get small

def count(name):
    with open(name, "a", buffering=1) as file:
        number = 0
        while True:
            number += 1
            file.write(f"{number} {time.time():.3f}\\n")
            time.sleep(0.01)

for name in sys.argv[1:]:
    threading.Thread(target=count, args=(name,)).start()
"""

START = """
import subprocess, sys
none = subprocess.DEVNULL
process = subprocess.Popen(["python3", *sys.argv[1:]], stdin=none, stdout=none, stderr=none, start_new_session=True)
print(process.pid)
"""


@pytest.fixture
def place(lab: Lab) -> Iterator[str]:
    """A directory that both hosts have, with the program in it; who works in it at the end is killed."""
    inside = f"{SHARED}/{secrets.token_hex(4)}"
    host = lab.host("a")
    host.run("mkdir", inside)
    host.path(f"{inside}/count.py").write_text(PROGRAM)
    yield inside
    for each in lab.hosts:
        each.run("pkill", "-KILL", "-f", inside, check=False)
    host.run("rm", "-r", inside)


def start(host: Host, place: str) -> str:
    """The program's pid."""
    host.run("sh", "-c", f"echo {FIRST_PID} >/proc/sys/kernel/ns_last_pid")
    files = [f"{place}/{number}" for number in range(THREADS)]
    return host.run("python3", "-c", START, f"{place}/count.py", *files).out.strip()


def numbers(host: Host, place: str, thread: int) -> list[int]:
    path: Path = host.path(f"{place}/{thread}")
    whole, _, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")
    return [int(line.split()[0]) for line in whole.splitlines()]


def counted(host: Host, place: str, beyond: int) -> bool:
    return all(len(numbers(host, place, thread)) > beyond for thread in range(THREADS))


def test_its_memory_is_compressed(served: Lab, place: str) -> None:
    a, b = served.hosts
    pid = start(a, place)
    wait_for(lambda: counted(a, place, 20), "the threads' counting")
    said = haul(a, "pid", pid, b.ip, "--compress", "zstd").out
    found = re.search(r"^Compressed \(zstd\): ([\d.]+) MiB went as ([\d.]+) of it\.$", said, re.MULTILINE)
    assert found and float(found[1]) > 16 and float(found[2]) < 0.4, said
    seen = len(numbers(b, place, 0))
    wait_for(lambda: counted(b, place, seen), "its going on")


def test_a_process_with_threads_moves(served: Lab, place: str) -> None:
    a, b = served.hosts
    pid = start(a, place)
    wait_for(lambda: counted(a, place, 20), "the threads' counting")
    said = haul(a, "pid", pid, b.ip, "--dst-rpid", f"{place}/rpid").out
    assert f"Runs on {b.ip} as {pid}.\n" in said
    last = max(len(numbers(a, place, thread)) for thread in range(THREADS))
    wait_for(lambda: counted(b, place, last + 20), "their counting at the target")
    for thread in range(THREADS):
        seen = numbers(b, place, thread)
        assert seen == list(range(1, len(seen) + 1))
    assert b.path(f"{place}/rpid").read_text().strip() == pid
    assert f"{place}/count.py" in b.run("cat", f"/proc/{pid}/cmdline").out
    assert a.run("test", "-e", f"/proc/{pid}", check=False).code == 1


def test_a_file_that_the_target_lacks(served: Lab, place: str) -> None:
    a, b = served.hosts
    a.run("cp", f"{place}/count.py", "/root/kept-open")
    a.run("sh", "-c", f"echo {FIRST_PID} >/proc/sys/kernel/ns_last_pid")
    reader = "import time; file = open('/root/kept-open'); time.sleep(600)"
    pid = a.run("python3", "-c", START, "-c", reader, place).out.strip()
    wait_for(lambda: "/root/kept-open" in a.run("ls", "-l", f"/proc/{pid}/fd").out, "the file's being open")
    assert "/root/kept-open is missing on b" in refused(haul(a, "pid", pid, b.ip, check=False), "file-differs")
    a.run("rm", "/root/kept-open")
