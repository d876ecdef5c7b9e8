"""The journal: what is on disk is what is so, whatever moment the power went at."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource as limits
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phaul import journal, places, resolve, service
from phaul.journal import SOURCE, TARGET, Journal

HAUL = "20260102-030405-0000000{}"


@pytest.fixture(autouse=True)
def journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(places, "JOURNALS", tmp_path / "journal")
    return tmp_path / "journal"


def begin(side: str = SOURCE, number: int = 0) -> Journal:
    return journal.begin(side, haul=HAUL.format(number), haul_type="note", subject="web", peer="10.0.0.2", port=1)


def seen(record: Journal) -> tuple[Any, ...]:
    return record.head, record.state, record.steps


def test_what_was_written_is_read_back() -> None:
    record = begin()
    record.push("pause", id="x")
    record.push("policy", name="always")
    record.forget(0)
    record.note(pid=7)
    record.advance(journal.FROZEN)
    assert seen(journal.read(record.path)) == seen(record)
    assert record.head["pid"] == 7 and record.head["port"] == 1
    assert [step.kind for step in record.steps] == ["policy"]
    record.close()
    again = journal.take(record.path)
    assert seen(again) == seen(record)
    assert again.push("more") == 2
    again.close()


def test_files_are_roots_alone(journals: Path) -> None:
    record = begin()
    assert journals.stat().st_mode & 0o777 == 0o700
    assert record.path.stat().st_mode & 0o777 == 0o600
    record.close()


def test_whatever_is_torn_off_the_end_the_whole_lines_count() -> None:
    record = begin()
    states = {len(record.path.read_bytes()): seen(journal.read(record.path))}
    for act in (lambda: record.push("a", text="é"), lambda: record.advance(journal.FROZEN), lambda: record.forget(0)):
        act()
        states[len(record.path.read_bytes())] = seen(journal.read(record.path))
    record.close()
    whole = record.path.read_bytes()
    for length in range(min(states), len(whole) + 1):
        record.path.write_bytes(whole[:length])
        expected = states[max(size for size in states if size <= length)]
        assert seen(journal.read(record.path)) == expected
        taken = journal.take(record.path)
        assert seen(taken) == expected
        taken.note(after="the crash")
        taken.close()
        assert journal.read(record.path).head["after"] == "the crash"


def test_a_full_disk_leaves_no_half_line() -> None:
    record = begin()
    record.advance(journal.FROZEN)
    before, allowed = seen(record), limits.getrlimit(limits.RLIMIT_FSIZE)
    limits.setrlimit(limits.RLIMIT_FSIZE, (record.path.stat().st_size + 10, allowed[1]))
    try:
        with pytest.raises(journal.NotWritten, match="No space left"):
            record.advance(journal.COMMITTED)
    finally:
        limits.setrlimit(limits.RLIMIT_FSIZE, allowed)
    assert seen(record) == seen(journal.read(record.path)) == before
    record.advance(journal.UNDONE)
    assert journal.read(record.path).state == journal.UNDONE
    record.close()


@pytest.fixture
def small_disk(journals: Path) -> Iterator[Path]:
    """The journals are on a file system of a few pages, which others have left one of."""
    journals.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k,mode=700", "small", journals], check=True)
    try:
        yield journals
    finally:
        subprocess.run(["umount", "-l", journals], check=True)


def fill(disk: Path) -> None:
    with (disk / "of-others").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))


def test_a_disk_that_is_full_leaves_the_journal_as_it_was(small_disk: Path) -> None:
    record = begin()
    record.push("pause", id="x")
    fill(small_disk)
    on_disk, before = record.path.read_bytes(), seen(record)
    with pytest.raises(journal.NotWritten, match=r"\.source cannot be written: No space left on device\.") as caught:
        record.push("more", text="y" * 8000)  # the last page takes half of it
    assert (caught.value.code, caught.value.status) == ("journal", 7)
    assert record.path.read_bytes() == on_disk and seen(record) == seen(journal.read(record.path)) == before
    (small_disk / "of-others").unlink()
    assert record.push("more", text="y" * 8000) == 1
    assert seen(journal.read(record.path)) == seen(record)
    record.close()


def test_no_haul_begins_on_a_disk_that_is_full(small_disk: Path) -> None:
    fill(small_disk)
    descriptors = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(journal.NotWritten, match="No space left"):
            begin()
    assert os.listdir("/proc/self/fd") == descriptors
    assert list(journal.all_of(SOURCE)) == []
    (small_disk / "of-others").unlink()
    begin().close()


def test_a_disk_that_is_read_only(small_disk: Path) -> None:
    for side in (SOURCE, TARGET):
        begin(side).close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for act in (lambda: begin(number=1), lambda: journal.take(journal.find(SOURCE, HAUL.format(0)))):
        with pytest.raises(journal.NotWritten, match="Read-only file system"):
            act()
    assert resolve.settle_all() == [] and not service.recover_all()


def test_what_is_closed_writes_nothing_though_another_file_has_its_descriptor(tmp_path: Path) -> None:
    record = begin()
    before = record.path.read_bytes()
    record.close()
    with (tmp_path / "another").open("wb") as another:
        with pytest.raises(journal.NotWritten, match="Bad file descriptor"):
            record.advance(journal.FROZEN)
        another.flush()
    assert (tmp_path / "another").read_bytes() == b"" and record.path.read_bytes() == before
    assert record.state == journal.BEGUN


WRONG = {
    "zeros": b"\0" * 30,
    "words": b"not a record at all",
    "half of a record": b'{"state": "fro',
    "a list": b"[]",
    "a record of no kind": b'{"says": "nothing"}',
    "an unknown state": b'{"state": "melted"}',
    "an undo step without its kind": b'{"push": 1}',
    "nothing": b"",
}


@pytest.mark.parametrize("what", WRONG)
def test_a_line_in_the_middle_that_is_none(what: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is as far as the line before says, and nobody carries it on."""
    record = begin()
    record.push("pause", id="x")
    record.advance(journal.FROZEN)
    record.close()
    before = seen(record)
    whole = record.path.read_bytes()
    record.path.write_bytes(whole + WRONG[what] + b'\n{"state": "committed"}\n')
    read = journal.read(record.path)
    assert (seen(read), read.damaged) == (before, 4)
    with pytest.raises(journal.Damaged, match=r"of the haul of web is damaged in line 4") as caught:
        journal.take(record.path)
    assert (caught.value.code, caught.value.status) == ("journal-damaged", 3)
    assert record.path.read_bytes().startswith(whole + WRONG[what]), "what follows is kept for who looks at it"
    assert [found.haul for found in journal.unsettled(SOURCE)] == [record.haul]
    with pytest.raises(journal.Damaged):
        resolve.of_subject("web")
    with pytest.raises(journal.Damaged):
        resolve.refuse_unsettled("web")
    resolve.refuse_unsettled("another")
    assert resolve.settle_all() == []
    assert "is damaged in line 4" in caplog.text


def test_a_first_line_that_is_none_is_told(journals: Path, caplog: pytest.LogCaptureFixture) -> None:
    for side in (SOURCE, TARGET):
        record = begin(side)
        record.advance(journal.FROZEN if side == SOURCE else journal.HELD)
        record.close()
        record.path.write_bytes(b"\0" + record.path.read_bytes()[1:])
    assert resolve.settle_all() == [] and service.recover_all()
    assert caplog.text.count("of a haul is damaged in line 1") == 2
    assert len(list(journals.iterdir())) == 2


def test_a_target_whose_head_was_torn_off_is_no_haul_to_settle() -> None:
    record = begin(TARGET)
    record.close()
    record.path.write_bytes(record.path.read_bytes()[:20])
    assert service.recover_all()


def test_a_head_that_was_torn_off_is_no_haul() -> None:
    record = begin()
    record.close()
    record.path.write_bytes(record.path.read_bytes()[:20])
    assert list(journal.unsettled(SOURCE)) == []
    record.path.write_bytes(b"")
    assert list(journal.unsettled(SOURCE)) == []


PATHS = {
    SOURCE: {"begun": [], "frozen": ["frozen"], "committed": ["frozen", "committed"]},
    TARGET: {"begun": [], "held": ["held"], "running": ["held", "running"]},
}
PATHS[SOURCE]["done"], PATHS[SOURCE]["undone"] = ["frozen", "committed", "done"], ["undone"]
PATHS[TARGET]["done"], PATHS[TARGET]["undone"] = ["held", "running", "done"], ["undone"]
ALLOWED = {
    SOURCE: {("begun", "frozen"), ("frozen", "committed"), ("committed", "done")}
    | {(state, "undone") for state in ("begun", "frozen", "committed")},
    TARGET: {
        ("begun", "held"),
        ("held", "running"),
        ("running", "done"),
        ("running", "undone"),
        ("begun", "undone"),
        ("held", "undone"),
    },
}
STEPS = [(side, *step) for side in (SOURCE, TARGET) for step in itertools.product(PATHS[side], repeat=2)]


@pytest.mark.parametrize(("side", "state", "then"), STEPS)
def test_states_follow_each_other_as_the_table_says(side: str, state: str, then: str) -> None:
    record = begin(side)
    for step in PATHS[side][state]:
        record.advance(step)
    before = record.path.read_bytes()
    if (state, then) in ALLOWED[side]:
        record.advance(then)
        assert journal.read(record.path).state == then
    else:
        with pytest.raises(ValueError, match=f"from {state} to {then}"):
            record.advance(then)
        assert record.state == state and record.path.read_bytes() == before
    record.close()


def test_steps_are_undone_the_newest_first_and_what_fails_stays() -> None:
    record = begin()
    for kind in ("first", "second", "third"):
        record.push(kind, of=kind)
    undone: list[str] = []

    def undo(kind: str, args: dict[str, Any]) -> None:
        assert args == {"of": kind}
        undone.append(kind)
        if kind == "second":
            raise RuntimeError("no")

    assert record.roll_back(undo) == ["second: no"]
    assert undone == ["third", "second", "first"]
    assert [step.kind for step in journal.read(record.path).steps] == ["second"]
    record.close()


def test_one_journal_for_one_haul_and_side() -> None:
    begin().close()
    with pytest.raises(FileExistsError):
        begin()
    begin(TARGET).close()


def test_only_one_process_carries_a_haul_out() -> None:
    record = begin()
    with pytest.raises(journal.Busy):
        journal.take(record.path)
    assert [found.haul for found in journal.unsettled(SOURCE)] == [record.haul]
    taken: list[Journal] = []
    waiting = threading.Thread(target=lambda: taken.append(journal.take(record.path, wait=True)))
    waiting.start()
    record.advance(journal.UNDONE)
    record.close()
    waiting.join(60)
    assert taken[0].state == journal.UNDONE
    taken[0].close()
    assert list(journal.unsettled(SOURCE)) == []


def test_a_journal_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        journal.take(journal.find(SOURCE, HAUL.format(1)))
    assert list(journal.all_of(SOURCE)) == []


def test_old_ones_go_but_never_one_that_is_open_or_not_wholly_undone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(journal, "KEEP", 2)
    monkeypatch.setattr(places, "LOGS", tmp_path / "log")
    for number in range(6):
        (places.log_dir(HAUL.format(number)) / "p.haul.log").touch()
    kept_open = begin(number=0)
    untidy = begin(number=1)
    untidy.push("left")
    untidy.advance(journal.UNDONE)
    for record in (begin(number=2), begin(number=3), begin(number=4)):
        record.advance(journal.UNDONE)
        record.close()
    last = begin(number=5)
    numbers = sorted(int(path.stem[-1]) for path in journal.all_of(SOURCE))
    assert numbers == [0, 1, 3, 4, 5]
    assert [path.stem[-1] for path in journal.all_of(SOURCE)] == ["5", "4", "3", "1", "0"]
    assert sorted(path.name[-1] for path in places.LOGS.iterdir()) == ["0", "1", "3", "4", "5"], "as the journals"
    for record in (kept_open, untidy, last):
        record.close()
