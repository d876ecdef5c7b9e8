"""What the kernel shows of tasks, threads that work together, and signals that come at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from phaul import interrupts, tasks_seen
from phaul.errors import Cancelled, HaulFailed
from phaul.tasks import Crew

ROOT = Path(__file__).resolve().parent.parent


def test_a_process_that_is_gone() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert tasks_seen.status_of(gone.pid) == {}
    assert tasks_seen.written_through_maps(gone.pid) == set()
    assert tasks_seen.descriptors(gone.pid) == set() and tasks_seen.namespace(gone.pid, "pid") == ""
    assert not tasks_seen.expectation([gone.pid], mounts=False).tasks


def test_what_a_task_has_open(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("12345")
    with (tmp_path / "kept").open() as kept, (tmp_path / "gone").open("w") as gone:
        gone.write("12")
        gone.flush()
        (tmp_path / "gone").unlink()
        seen = tasks_seen.expectation([os.getpid()])
        files = {file.fd: (file.path, file.size) for file in seen.files}
        assert files[kept.fileno()] == (str(tmp_path / "kept"), 5)
        assert files[gone.fileno()] == ("(deleted)", 2)
    assert seen.tasks[0].threads == len(os.listdir("/proc/self/task"))
    assert "/" in seen.mounts and list(seen.mounts) == sorted(seen.mounts)


def test_files_written_through_maps(tmp_path: Path) -> None:
    import mmap

    for name in ("shared", "private", "read"):
        (tmp_path / name).write_bytes(bytes(4096))
    kinds = {
        "shared": (mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
        "private": (mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE),
        "read": (mmap.MAP_SHARED, mmap.PROT_READ),
    }
    files = {name: (tmp_path / name).open("r+b") for name in kinds}
    maps = [mmap.mmap(files[name].fileno(), 4096, flags=kind[0], prot=kind[1]) for name, kind in kinds.items()]
    found = tasks_seen.written_through_maps(os.getpid())
    for one in (*maps, *files.values()):
        one.close()
    assert str(tmp_path / "shared") in found
    assert found.isdisjoint({str(tmp_path / "private"), str(tmp_path / "read")})


def test_a_crew_waits_for_all_and_gives_what_they_made() -> None:
    with Crew() as crew:
        futures = [crew.add(pow, number, 2) for number in range(20)]
        crew.join()
    assert [future.result() for future in futures] == [number**2 for number in range(20)]


def test_a_failure_stops_the_others_and_is_raised() -> None:
    stopped = threading.Event()

    def fail() -> None:
        raise HaulFailed("No.")

    with pytest.raises(HaulFailed, match="No"), Crew() as crew:
        crew.stop_with(stopped.set)
        patient = crew.add(stopped.wait, 60)
        crew.add(fail)
        crew.join()
    assert patient.result(0) is True


def test_a_failure_outside_the_crew_stops_it_too() -> None:
    stopped = threading.Event()
    with pytest.raises(Cancelled), Crew() as crew:
        crew.stop_with(lambda: 1 // 0)
        crew.stop_with(stopped.set)
        patient = crew.add(stopped.wait, 60)
        raise Cancelled("By somebody.")
    assert patient.result(0) is True


@pytest.fixture
def signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    interrupts.install()
    interrupts.forget()
    yield
    interrupts.install()
    interrupts.forget()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_signal_cancels(signals: None, number: signal.Signals) -> None:
    with pytest.raises(Cancelled, match=number.name):
        signal.raise_signal(number)
    assert not interrupts.noted()


def test_a_shield_keeps_it_until_its_end(signals: None) -> None:
    reached = []
    with pytest.raises(Cancelled, match="SIGTERM"), interrupts.shielded():
        with interrupts.shielded():
            signal.raise_signal(signal.SIGTERM)
            reached.append("inner")
        assert interrupts.noted()
        reached.append("outer")
    assert reached == ["inner", "outer"] and not interrupts.noted()


def test_a_failure_under_the_shield_is_not_hidden_by_a_signal(signals: None) -> None:
    with pytest.raises(HaulFailed), interrupts.shielded():
        signal.raise_signal(signal.SIGINT)
        raise HaulFailed("First.")


def test_what_is_forgotten_does_not_come_back(signals: None) -> None:
    with interrupts.shielded():
        signal.raise_signal(signal.SIGHUP)
        interrupts.forget()


def test_after_the_commit_signals_are_only_noted(signals: None) -> None:
    with interrupts.shielded():
        interrupts.too_late()
    for number in interrupts.SIGNALS:
        signal.raise_signal(number)
    assert interrupts.noted()
