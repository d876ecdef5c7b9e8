"""Files on their way: CRIU's images from a hostile peer, which files a last pass compares, sizes for people."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phaul import fs_haul_subtree, images, mstats, pid_files, verify
from phaul.connection import Connection
from phaul.errors import HaulFailed, LinkLost, ProtocolError
from phaul.htype import Capabilities, Tree
from phaul.link import Link
from phaul.messages_pb2 import Expectation, ImageFile, OpenFile, Task

Ends = tuple[Connection, Connection]


@contextlib.contextmanager
def connected() -> Iterator[Ends]:
    left, right = (Connection(Link(sock, "peer")) for sock in socket.socketpair())
    with contextlib.closing(left), contextlib.closing(right):
        yield left, right


@pytest.fixture
def ends() -> Iterator[Ends]:
    with connected() as pair:
        yield pair


def test_images_arrive_as_they_were_and_are_roots_alone(tmp_path: Path, ends: Ends) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name, size in {"core-1.img": 700, "pages-1.img": (1 << 20) + 3, "empty.img": 0}.items():
        (source / name).write_bytes(os.urandom(size))
    counted: list[tuple[int, int]] = []
    sending = threading.Thread(
        target=lambda: images.send(source, ends[0], on_bytes=lambda *counts: counted.append(counts))
    )
    sending.start()
    images.receive(target, ends[1])
    sending.join(60)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }
    assert {path.stat().st_mode & 0o7777 for path in target.iterdir()} == {0o600}
    size = sum(path.stat().st_size for path in source.iterdir())
    assert [sum(counts) for counts in zip(*counted, strict=True)] == [size, size]


HOSTILE = [
    "../x",
    "/etc/x",
    "a/b",
    "..",
    ".",
    ".hidden",
    "-rf",
    "a\0b",
    "a\nb",
    "a b",
    "é",
    "x" * 300,
    "a/../../b",
    "\\x",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_are_none_are_refused_before_a_file_is_made(tmp_path: Path, ends: Ends, name: str) -> None:
    (tmp_path / "in").mkdir()
    ends[0].send(ImageFile(name=name, size=1))
    ends[0].link.send_chunks([b"x"])
    with pytest.raises(ProtocolError, match="impossible name"):
        images.receive(tmp_path / "in", ends[1])
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


@settings(max_examples=200)
@given(st.text(min_size=1))
def test_every_name_that_is_taken_stays_in_its_directory(name: str) -> None:
    if images.NAME.fullmatch(name):
        assert (Path("/top") / name).parent == Path("/top")
        assert os.path.normpath(f"/top/{name}") == f"/top/{name}" and len(os.fsencode(name)) <= 255


@pytest.mark.parametrize(("announced", "sent"), [(3, 4), (0, 1), (5, 4), (1 << 60, 4), (3, 1 << 20)])
def test_a_size_that_is_not_the_announced_one(tmp_path: Path, ends: Ends, announced: int, sent: int) -> None:
    def send() -> None:
        with contextlib.suppress(LinkLost):
            ends[0].send(ImageFile(name="pages-1.img", size=announced))
            ends[0].link.send_chunks([bytes(sent)])

    sending = threading.Thread(target=send)
    sending.start()
    with pytest.raises(ProtocolError, match=r"pages-1\.img"):
        images.receive(tmp_path, ends[1])
    ends[1].close()
    sending.join(60)
    assert (tmp_path / "pages-1.img").stat().st_size <= announced


@pytest.mark.parametrize("there", ["file", "symlink"])
def test_nothing_that_is_there_is_written_to(tmp_path: Path, ends: Ends, there: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "in").mkdir()
    at = tmp_path / "in" / "core-1.img"
    at.symlink_to(precious) if there == "symlink" else at.write_text("mine")
    ends[0].send(ImageFile(name="core-1.img", size=1))
    ends[0].link.send_chunks([b"x"])
    with pytest.raises(ProtocolError, match="twice"):
        images.receive(tmp_path / "in", ends[1])
    assert at.read_text() == precious.read_text() == "mine"


def test_the_number_of_files_is_bounded(tmp_path: Path, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILES", 3)
    for number in range(4):
        ends[0].send(ImageFile(name=f"x{number}", size=0))
        ends[0].link.send_chunks([])
    with pytest.raises(ProtocolError, match="more than 3"):
        images.receive(tmp_path, ends[1])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_peer_that_leaves_in_the_middle(tmp_path: Path, ends: Ends) -> None:
    ends[0].send(ImageFile(name="core-1.img", size=10))
    ends[0].close()
    with pytest.raises(LinkLost):
        images.receive(tmp_path, ends[1])


def tree(path: Path, inside: str) -> Tree:
    return Tree(path, "volume", inside, path)


def test_files_touched_since(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/b"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("a")
    os.mkfifo(tmp_path / "fifo")
    moments = {name: (tmp_path / name).stat().st_ctime for name in ("a", "sub/b")}
    assert sorted(fs_haul_subtree.touched_since(tmp_path, min(moments.values()))) == ["a", "sub/b"]
    assert list(fs_haul_subtree.touched_since(tmp_path, max(moments.values()) + 0.001)) == []


def test_a_date_that_was_put_back_does_not_hide_a_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("x")
    os.utime(tmp_path / "a", (0, 0))
    moment, one = (tmp_path / "a").stat().st_ctime, tree(tmp_path, "/")
    assert list(fs_haul_subtree.touched_of(one, [one], ["/a", "/c"], moment)) == ["a"]
    assert list(fs_haul_subtree.touched_of(one, [one], ["/a"], moment + 1)) == []


def test_mapped_files_belong_to_the_innermost_tree(tmp_path: Path) -> None:
    root, data, deep = tmp_path / "root", tmp_path / "data", tmp_path / "deep"
    trees = [tree(root, "/"), tree(data, "/data"), tree(deep, "/data/deep")]
    for path in (
        root / "etc/x",
        root / "data/hidden",
        data / "base",
        data / "deep/hidden",
        deep / "y",
        root / "database",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    paths = ["/etc/x", "/data/base", "/data/deep/y", "/data/hidden", "/data/deep/hidden", "/database", "/gone", "/etc"]
    assert [list(fs_haul_subtree.files_in(one, trees, paths)) for one in trees] == [
        ["etc/x", "database"],
        ["base"],
        ["y"],
    ]


def test_files_that_a_process_needs(tmp_path: Path) -> None:
    (tmp_path / "same").write_text("1234")
    seen = [
        pid_files.FileSeen("/same", 4, grows=False),
        pid_files.FileSeen("/same", 3, grows=True),
        pid_files.FileSeen("/same", 9, grows=True),
        pid_files.FileSeen("/same", 5, grows=False),
        pid_files.FileSeen("/gone", 1, grows=True),
    ]
    lacking = ["/same has 4 bytes instead of 9", "/same has 4 bytes instead of 5", "/gone is missing"]
    assert pid_files.lacking(seen, tmp_path) == lacking
    assert [pid_files.FileSeen.of_document(one.document()) for one in seen] == seen


def test_files_that_this_process_has_open(tmp_path: Path) -> None:
    with (tmp_path / "w").open("w") as writing, (tmp_path / "w").open() as reading, (tmp_path / "x").open("w") as gone:
        (tmp_path / "x").unlink()
        found = {seen.path: seen for seen in pid_files.files_of([os.getpid()])}
        assert writing and reading and gone
    assert all(path.startswith("/") for path in found)
    assert str(tmp_path / "w") in found
    assert not any(path.startswith(str(tmp_path / "x")) for path in found)
    assert str(Path(os.readlink("/proc/self/exe"))) in found


EXPECTED = Expectation(
    tasks=[Task(pid=1, threads=2, comm="init"), Task(pid=7, threads=1, comm="child")],
    files=[OpenFile(pid=1, fd=3, path="/ticks", size=10)],
    mounts=["/", "/data", "/proc", "/sys/fs/cgroup"],
)


def changed(**fields: object) -> Expectation:
    seen = Expectation()
    seen.CopyFrom(EXPECTED)
    for name, value in fields.items():
        seen.ClearField(name)  # type: ignore[arg-type]
        getattr(seen, name).extend(value)
    return seen


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (changed(tasks=EXPECTED.tasks[:1]), ["task 7 (child) is missing"]),
        (changed(tasks=[*EXPECTED.tasks, Task(pid=9, comm="new")]), ["task 9 (new) was not there before"]),
        (
            changed(tasks=[Task(pid=1, threads=3, comm="init"), EXPECTED.tasks[1]]),
            ["was init with 2 threads, is init with 3"],
        ),
        (changed(tasks=[Task(pid=1, threads=2, comm="sh"), EXPECTED.tasks[1]]), ["is sh"]),
        (changed(files=[]), ["descriptor 3 of task 1 (/ticks) is missing"]),
        (changed(files=[*EXPECTED.files, OpenFile(pid=7, fd=0, path="/n")]), ["descriptor 0 of task 7 (/n) is new"]),
        (changed(files=[OpenFile(pid=1, fd=3, path="/ticks", size=9)]), ["had 10 bytes, /ticks has 9"]),
        (changed(files=[OpenFile(pid=1, fd=3, path="/other", size=10)]), ["/other"]),
        (changed(mounts=["/", "/proc"]), ["mount /data is missing"]),
        (changed(mounts=[*EXPECTED.mounts, "/more"]), ["mount /more was not there"]),
    ],
)
def test_what_is_restored_must_be_what_was_frozen(seen: Expectation, words: list[str]) -> None:
    found = verify.differences(EXPECTED, seen)
    assert len(found) == len(words) and all(word in one for word, one in zip(words, found, strict=True)), found
    with pytest.raises(HaulFailed) as caught:
        verify.check(EXPECTED, seen)
    assert caught.value.code == "verify" and words[0] in caught.value.sentence


def test_what_may_differ_between_hosts() -> None:
    verify.check(EXPECTED, EXPECTED)
    verify.check(EXPECTED, changed(mounts=["/", "/data", "/proc", "/proc/acpi", "/sys/firmware", "/dev/shm"]))


@given(st.integers(0, 1 << 62))
def test_bytes_for_people(count: int) -> None:
    number, unit = mstats.readable(count).split()
    value = float(number) * 1024 ** mstats.UNITS.index(unit)
    assert abs(value - count) <= max(0.5, 0.06 * 1024 ** mstats.UNITS.index(unit))
    assert float(number) < 1024.05 or unit == mstats.UNITS[-1]


def test_what_a_haul_moved() -> None:
    stats = mstats.Stats()
    stats.add("rootfs", 1536, 3072)
    stats.add("rootfs", 512, 5120)
    assert stats.total == 2048 and stats.content == 8192
    assert stats.packed() == []
    stats.codec = "zstd"
    assert stats.packed() == ["Compressed (zstd): 8.0 KiB went as 0.25 of it."]
    assert stats.by_kind() == "image 0 B, rootfs 2.0 KiB, memory 0 B"
    stats.frozen, stats.released = 10.0, 10.25
    assert stats.downtime == 0.25


def test_capabilities_are_what_both_can() -> None:
    every = Capabilities()
    some = Capabilities(image=False, tcp_keep=False)
    assert every & some == some & every == some
    assert some & Capabilities(hold=False) == Capabilities(image=False, tcp_keep=False, hold=False)
    assert Capabilities.of_words(some.words()) == some
    assert Capabilities.of_words(["hold", "levitate"]) == Capabilities.of_words(["hold"])
    assert Capabilities.of_words([]).words() == []


def test_how_far_a_haul_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock, and what is still to come."""
    now = 1000.0
    monkeypatch.setattr(mstats.time, "monotonic", lambda: now)
    stats = mstats.Stats(begun=now)
    stats.enter("sync")
    stats.add("rootfs", 100, 100)
    seen = stats.seen()
    assert (seen.phase, seen.phase_sent, seen.goal, seen.remaining, seen.round) == ("sync", 100, None, None, None)
    stats.enter("pre-copy")
    stats.in_round(1, 4000)
    for _ in range(10):
        now += 1
        stats.add("memory", 50, 100)
    seen = stats.seen()
    assert (seen.phase_seconds, seen.seconds, seen.sent, seen.phase_sent) == (10, 10, 600, 500)
    assert (seen.goal, seen.remaining, seen.round, seen.rate) == (4000, 3000, 1, 50)
    assert seen.remaining_seconds == 30
    stats.has_changed(1, 4000)
    assert stats.seen().dirty_rate is None  # all of it was new
    now += 2
    stats.has_changed(2, 300)
    stats.in_round(2, None)
    seen = stats.seen()
    assert (seen.dirty_rate, seen.remaining, seen.downtime) == (150, None, None)
    stats.enter("memory")
    stats.frozen = now
    for missing in (1000, 600):
        stats.still_missing(missing)
    stats.add("memory", 100, 100)
    seen = stats.seen()
    assert (seen.goal, seen.remaining, seen.dirty_rate, seen.downtime, seen.released) == (1000, 500, None, 0, False)
    stats.add("memory", 900, 900)
    assert stats.seen().remaining == 0
