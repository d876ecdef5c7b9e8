"""Targets of what a container has made a host say: tables of the kernel, logs of CRIU and the engine, its images."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import struct
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from unittest import mock

from phaul import (
    args_parser,
    criu_log,
    diagnosis,
    docker_logs,
    freezer,
    host_setup,
    interrupts,
    log,
    pages_images,
    pid_files,
    procfs,
    sockets_seen,
    task_sockets,
    tasks_seen,
)
from phaul.connection import raise_failure
from phaul.display import Plain
from phaul.errors import PhaulError
from phaul.messages_pb2 import Failure, LogEntry
from phaul.mstats import Stats
from phaul.pace import Pace
from phaul.run import Done

from . import mutators, stage
from .table import Target

TASK = 77
TOP = Path("/nonexistent")


@contextlib.contextmanager
def _proc() -> Iterator[None]:
    """A proc(5) with one task."""
    global TOP
    with stage.directory() as TOP, contextlib.ExitStack() as stack:
        (TOP / str(TASK) / "fd").mkdir(parents=True)
        (TOP / str(TASK) / "net").mkdir()
        for module in (procfs, tasks_seen, pid_files, sockets_seen, task_sockets):
            stack.enter_context(mock.patch.object(module, "PROC", TOP))
        yield


def _said(name: str, data: bytes) -> None:
    (TOP / str(TASK) / name).write_bytes(data)


# Names that a task chooses, as the kernel writes them: each target puts the bytes where the kernel puts a name


def _maps_escaped(name: bytes) -> bytes:
    return name.replace(b"\n", b"\\012")


def _mount_escaped(name: bytes) -> bytes:
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes([byte]) for byte in name)


def _name_escaped(name: bytes) -> bytes:
    return name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")


def maps(data: bytes) -> None:
    """A mapped file of any name is told as one file, of that name but for a newline in it."""
    name = b"/" + data.replace(b"\0", b"")
    line = b"7f0000000000-7f0000001000 rw-s 00000000 08:01 1234                       " + _maps_escaped(name) + b"\n"
    _said("maps", line + b"7f0000001000-7f0000002000 r--p 00000000 00:00 0 \n7f00-7f01 r--p 0 00:00 0     [vdso]\n")
    found = tasks_seen.written_through_maps(TASK)
    assert [procfs.os.fsencode(path) for path in found] == [_maps_escaped(name)]
    assert pid_files.mapped(TASK) == {path for path in found if not path.endswith("(deleted)")}


def mountinfo(data: bytes) -> None:
    """A mount point of any name is one mount, of that name."""
    name = b"/" + data.replace(b"\0", b"")
    line = b"36 35 98:0 /mnt1 " + _mount_escaped(name) + b" rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
    _said("mountinfo", b"1 0 0:1 / / rw - overlay overlay rw\n" + line)
    root, mount = tasks_seen.mounts(TASK)
    assert (root.point, root.kind) == ("/", "overlay")
    assert (procfs.os.fsencode(mount.point), mount.device, mount.kind) == (name, "98:0", "ext3")
    tasks_seen.Expectation(mounts=tasks_seen.mount_points(TASK))


def status(data: bytes) -> None:
    """A program of any name: no other line of its status is of its making."""
    name = _name_escaped(data.replace(b"\0", b""))[:64]
    _said("status", b"Name:\t" + name + b"\nState:\tS (sleeping)\nNSpid:\t77\t1\nThreads:\t3\n")
    seen = tasks_seen.expectation([TASK], mounts=False)
    (task,) = seen.tasks
    assert (task.pid, task.threads) == (1, 3)
    assert set(tasks_seen.status_of(TASK)) == {"Name", "State", "NSpid", "Threads"}


def cgroup(data: bytes) -> None:
    _said("cgroup", b"0::/" + data.replace(b"\n", b"").replace(b"\0", b"") + b"\n")
    freezer.of(TASK)


def unix_sockets(data: bytes) -> None:
    """What ss(8) says of sockets that are bound to names."""
    said = Done((), 0, data.decode(errors="replace"), "")
    with mock.patch.object(task_sockets.net_ns, "inside", lambda *_, **__: said):
        assert all(one >= 0 and two >= 0 for one, two in task_sockets._unix_pairs(TASK))


# Logs


def criu_said(data: bytes) -> None:
    """What is made of CRIU's log, names of programs and files in it, is one line that a terminal can show."""
    path = TOP / "restore.log"
    path.write_bytes(data)
    line = criu_log.deciding_line(path)
    for said in diagnosis.told("CRIU could not restore it", line):
        _must_be_a_line(said)


def _must_be_a_line(text: str) -> None:
    assert text.isprintable(), text


def criu_logs() -> Iterator[bytes]:
    yield b"(00.1) 12: Error (criu/files-reg.c:2): File /a\x1b[2J b has bad size 1 (expect 2)\n"
    yield b"(00.000001) Error (criu/tty.c:1): tty: ctl tty\n(0.1) Error (x): Dumping FAILED.\n"
    for words in ("Can't dump file 3 of that type [100] (chr 5:1)", "Connected TCP socket", "io_uring", "inotify path"):
        yield f"(00.2)      1: Error (criu/x.c:9): {words}\n".encode()


def engine_lines(data: bytes) -> None:
    """A log file of the engine's, of either kind, after a full disk say."""
    for kind in docker_logs.KINDS.values():
        whole = data[: kind.whole(data)]
        assert all(stream in (1, 2) for stream, _ in kind.spoken(whole))


def logged() -> Iterator[bytes]:
    yield json.dumps({"log": "a\n", "stream": "stderr", "time": "t"}).encode() + b"\nnull\n{}\n"
    entry = LogEntry(source="stdout", line=b"x", time_nano=1).SerializeToString()
    yield struct.pack(">I", len(entry)) + entry + struct.pack(">I", len(entry))


# A terminal


STATS = Stats(pace=Pace(None))


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """The end of a failure changes nothing of how this process takes signals."""
    with mock.patch.object(interrupts, "over", lambda: None):
        yield


def terminal(data: bytes) -> None:
    """A peer's failure as p.haul ends with it, says it meanwhile, and logs it."""
    text = data.decode(errors="surrogateescape")
    shown, logged = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(logged)
    handler.setFormatter(log._Formatter(log.FORMAT))
    record = logging.LogRecord("phaul", logging.ERROR, "", 0, "%s", (text,), None)
    before, sys.stderr = sys.stderr, shown
    try:
        assert args_parser.told(lambda: _fail(data), "p.haul") not in (0, 1)
    finally:
        sys.stderr = before
    Plain(STATS, shown).say(text)
    handler.handle(record)
    for line in (*shown.getvalue().split("\n"), *logged.getvalue().split("\n")):
        _must_be_a_line(line)
    _, *more = logged.getvalue().rstrip("\n").split("\n")
    assert all(line.startswith("    ") for line in more), "it looks like a line of the log's own"


def _fail(data: bytes) -> int:
    said = data.decode(errors="replace")
    raise_failure(Failure(code=said[:9], status=3, sentence=said, detail=said))


# Files


def daemon_json(data: bytes) -> None:
    """What is there stays as it was, and is JSON for the engine."""
    text = data.decode(errors="replace")
    made = host_setup.merged(text, "/r")
    if made is not None:
        after = json.loads(made)
        assert after["runtimes"].pop("phaul") == {"path": "/r"}
        before = json.loads(text) if text.strip() else {}
        before.setdefault("runtimes", {}).pop("phaul", None)
        assert after == before


@contextlib.contextmanager
def _images() -> Iterator[None]:
    importlib.import_module("pycriu")
    with _proc():
        yield


def criu_images(data: bytes) -> None:
    """Both images that the pager reads, one behind the other: spans are disjoint, and within a mapping each."""
    length = int.from_bytes(data[:2], "big")
    (TOP / "mm-1.img").write_bytes(data[2 : 2 + length])
    (TOP / "pagemap-1.img").write_bytes(data[2 + length :])
    found = pages_images.lazy_pages(TOP, 1)
    assert all(one[1] <= two[0] for one, two in pairwise(found.spans))
    assert all(0 <= start < end < 1 << 63 for start, end, _ in found.spans)


def lazy_images() -> Iterator[bytes]:
    if not _IMAGES.missing:
        yield from _written_images()


def _written_images() -> Iterator[bytes]:
    from pycriu import images

    area = {"start": 0x1000, "end": 0x5000, "pgoff": 0, "shmid": 0, "prot": 3, "flags": 0x22, "status": 1, "fd": -1}
    names = "start_code end_code start_data end_data start_stack start_brk brk arg_start arg_end env_start env_end"
    numbers = {f"mm_{name}": 0 for name in names.split()}
    space = {**numbers, "exe_file_id": 1, "mm_saved_auxv": [0], "vmas": [area]}
    lazy = pages_images.LAZY
    runs = [
        {"vaddr": 0x1000, "compat_nr_pages": 0, "nr_pages": 2, "flags": lazy},
        {"vaddr": 0x4000, "compat_nr_pages": 1, "flags": lazy},
    ]
    one, two = io.BytesIO(), io.BytesIO()
    images.dump({"magic": "MM", "entries": [space]}, one)
    images.dump({"magic": "PAGEMAP", "entries": [{"pages_id": 1}, *runs]}, two)
    yield len(one.getvalue()).to_bytes(2, "big") + one.getvalue() + two.getvalue()


NAMES = (
    b"x",
    b"a b\tc\\d\ne\r\x0b\x0c\x1c\x85f",
    b"\xff\xfe\xe2\x80\xa8",
    b"\\012",
    b"x (deleted)",
    b" - x",
    b"State:\tZ",
)
SOCKETS = (
    b"u_str ESTAB 0 0 /run/a b 12345 * 12346\n",
    b"u_str ESTAB 0 0 * 1 * 0\nu_dgr UNCONN 0 0 @x\x0b 9 /y z 99999999999999999999\n",
)
_IMAGES = Target("criu-images", criu_images, lazy_images, _images, expected=(PhaulError, OSError), needs="pycriu")
TARGETS = (
    Target("maps", maps, lambda: NAMES, _proc, longest=512),
    Target("mountinfo", mountinfo, lambda: NAMES, _proc, longest=512),
    Target("status", status, lambda: NAMES, _proc, longest=64),
    Target("cgroup", cgroup, lambda: NAMES, _proc, longest=512),
    Target("unix-sockets", unix_sockets, lambda: SOCKETS, longest=512),
    Target("criu-log", criu_said, criu_logs, _proc),
    Target("engine-log", engine_lines, logged, mutate=mutators.of_frames),
    Target("terminal", terminal, lambda: [*NAMES, b"\x1b]0;x\x07\xc2\x9b2J\n\n\xe2\x80\xae"], _calm, longest=512),
    Target(
        "daemon-json",
        daemon_json,
        lambda: [b"", b'{"runtimes": {"x": {"path": "/y"}}, "debug": true}', b"[]"],
        mutate=mutators.of_json,
    ),
    _IMAGES,
)
