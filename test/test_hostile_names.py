"""Names that a program chooses, of itself and of its files: a haul reads them all, and none of them breaks it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from phaul import criu_log, diagnosis, dirty, docker_logs, pid_files, sample, task_checks, tasks_seen, verify
from phaul.connection import failure_of, message_of
from phaul.errors import Blocker, HaulFailed
from phaul.host_facts import version_of
from phaul.messages_pb2 import Verify

# It is called so, has a file of such a name open, and another one mapped to write through it.
PROGRAM = """
import ctypes, mmap, os, sys
where = os.fsencode(sys.argv[1])
name = bytes.fromhex(sys.argv[2])
ctypes.CDLL(None).prctl(15, name[:15], 0, 0, 0)
opened = os.open(os.path.join(where, b"o" + name), os.O_RDWR | os.O_CREAT)
os.write(opened, b"12345")
mapped = os.open(os.path.join(where, b"m" + name), os.O_RDWR | os.O_CREAT)
os.ftruncate(mapped, 4096)
kept = mmap.mmap(mapped, 4096)
os.close(mapped)
print("ready", flush=True)
sys.stdin.read()
"""
NAMES = {
    "no UTF-8": b"\xff\xfe\x80",
    "escapes": b"\x1b[2J\x07",
    "line ends": b"a\rb\x0bc\x0cd\x1ce\xc2\x85f\xe2\x80\xa8g",
    "newline": b"a\nb",
    "newline and what it is written as": b"a\nb\\012c",
    "spaces": b" a  b ",
    "a state of its own": b"x\nState:\tZ",
    "a kernel's mapping": b"x [vdso]",
    "backslashes": b"\\n\\134",
}


@pytest.fixture(params=NAMES.values(), ids=NAMES)
def name(request: pytest.FixtureRequest) -> bytes:
    return bytes(request.param)


@pytest.fixture
def task(tmp_path: Path, name: bytes) -> Iterator[int]:
    """A process with such names."""
    command = [sys.executable, "-c", PROGRAM, tmp_path, name.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def test_its_files_are_found_by_their_names(task: int, name: bytes, tmp_path: Path) -> None:
    opened, mapped = (os.fsdecode(os.path.join(os.fsencode(tmp_path), first + name)) for first in (b"o", b"m"))
    assert tasks_seen.written_through_maps(task) == {mapped}
    assert mapped in pid_files.mapped(task)
    assert {seen.path: seen.size for seen in pid_files.opened(task)}[opened] == 5
    assert tasks_seen.written([task]).opened == {opened, mapped}  # mmap keeps a descriptor of its own


def test_what_is_expected_of_it_can_be_told(task: int) -> None:
    """As a message, and it is the same when it is looked at again; who it is cannot be said by its name."""
    seen = tasks_seen.expectation([task])
    again = Verify.FromString(Verify(expectation=tasks_seen.expectation([task])).SerializeToString()).expectation
    verify.check(seen, again)
    (one,) = seen.tasks
    assert one.pid == task and one.threads == 1 and one.comm
    assert len([file for file in seen.files if file.size == 5]) == 1


def test_it_is_checked_and_its_memory_is_found(task: int) -> None:
    found = task_checks.of_tasks([task], "process 1")
    assert not [blocker for blocker in found if blocker.code == "task-stopped"]
    for blocker in found:
        message_of(blocker)
    assert tasks_seen.status_of(task)["State"][0] in "SRD"
    assert tasks_seen.memory([task]) > 0
    assert dirty.pages(task, only_dirty=False)
    sample.of([task], 1 << 20)  # as much as there is time for


def test_a_private_mapping_of_a_file_with_a_kernels_name_counts(tmp_path: Path) -> None:
    path = tmp_path / "x [vdso]"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as file:
        import mmap

        page = mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE)
        page[0] = 1
        lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("x [vdso]")]
        start = int(lines[0].partition("-")[0], 16)
        assert any(low <= start < high for low, high in dirty._private(os.getpid()))
        page.close()


# Logs


def test_a_log_of_criu_that_programs_wrote_into(tmp_path: Path) -> None:
    """A long line is not gone over again and again, and what is said of it is one line for a terminal."""
    log = tmp_path / "dump.log"
    log.write_bytes(b"(00.1) 1: Error (criu/x.c:1): " + b"inotify \x1b[2J" * 600_000 + b"\n")
    line = criu_log.deciding_line(log)
    assert line.startswith("inotify")
    sentence, detail = diagnosis.told("CRIU could not dump it", line)
    assert sentence.isprintable() and detail.isprintable() and len(sentence) < 5000
    assert diagnosis.of("inotify " * 1_000_000) is None


def test_a_log_of_the_engine_with_lines_that_are_none() -> None:
    good = b'{"log":"a\\n","stream":"stdout"}\n'
    data = good + b'{"log":"cut o\n' + b"[" * 100_000 + b"\n" + b"null\n" + b"\0\0\n" + b'{"log":1}\n' + good
    assert list(docker_logs.KINDS["json-file"].spoken(data)) == [(1, b"a\n")] * 2
    entry = b"\0\0\0\x02\xff\xff\0\0\0\x02"
    assert list(docker_logs.KINDS["local"].spoken(entry)) == []


# What a host says of itself


@pytest.mark.parametrize("text", ["9" * (4 << 20), "1." + "9" * 100_000, "1." * 2_000_000, "\u0661.\u0662"])
def test_a_version_that_is_none(text: str) -> None:
    assert len(version_of(text)) <= 200


def test_a_name_that_is_no_text_does_not_stop_a_failure() -> None:
    surrogate = os.fsdecode(b"/data/\xff\x1b[31m")
    failure = failure_of(HaulFailed(f"{surrogate} is gone.", detail=f"a\n{surrogate}"))
    assert failure.sentence == "/data/[31m is gone." and failure.detail == "a\n/data/[31m"
    assert message_of(Blocker("x", f"{surrogate} is gone", "put it there")).reason == "/data/[31m is gone"
