"""What the kernel shows of tasks, threads that work together, and signals that come at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from phaul import interrupts, tasks_seen
from phaul.errors import Cancelled, HaulFailed
from phaul.tasks import Crew

ROOT = Path(__file__).resolve().parent.parent
# In a network namespace of its own: nothing else is connected there.
CONNECTED = """
import os, socket, sys
sys.path.insert(0, sys.argv[1])
from phaul import tasks_seen

def connect(address):
    server = socket.create_server((address, 0))
    client = socket.create_connection(server.getsockname())
    return server, client, server.accept()[0]

print(tasks_seen.connections(os.getpid()))
kept = [connect("127.0.0.1"), connect("127.9.9.9")]
with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    kept.append((socket.create_connection(("127.0.0.1", server.getsockname()[1])), server.accept()[0]))
seen = tasks_seen.connections(os.getpid())
print(seen.inside, seen.outside)
server = socket.create_server(("10.99.0.1", 7000))
client = socket.socket()
client.bind(("10.99.0.2", 7001))
client.connect(("10.99.0.1", 7000))
seen = tasks_seen.connections(os.getpid())
print(seen.inside, sorted(seen.outside))
"""
TCP_HEAD = "  sl  local_address rem_address   st tx_queue\n"


def test_connections_inside_and_outside() -> None:
    script = 'ip link set lo up; ip address add 10.99.0.1/32 dev lo; ip address add 10.99.0.2/32 dev lo; exec "$@"'
    argv = ["unshare", "--net", "sh", "-c", script, "sh", sys.executable, "-c", CONNECTED, str(ROOT)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    none, inside, outside = done.stdout.splitlines()
    assert none == "Connections(outside=(), inside=0)"
    assert inside == "6 ()"
    assert outside == "6 ['10.99.0.1:7000 - 10.99.0.2:7001', '10.99.0.2:7001 - 10.99.0.1:7000']"


@pytest.mark.parametrize(
    ("end", "loopback", "readable"),
    [
        ("0100007F:1F90", True, "127.0.0.1:8080"),
        ("0909097F:0001", True, "127.9.9.9:1"),
        ("7F00000A:0016", False, "10.0.0.127:22"),
        ("00000000:0000", False, "0.0.0.0:0"),
        ("00000000000000000000000001000000:0050", True, "[00000000000000000000000001000000]:80"),
        ("0000000000000000FFFF00000100007F:0050", True, "127.0.0.1:80"),
        ("0000000000000000FFFF0000017F000A:0050", False, "10.0.127.1:80"),
        ("000080FE00000000000000000100007F:0050", False, "[000080fe00000000000000000100007f]:80"),
    ],
)
def test_addresses_as_the_kernel_writes_them(end: str, loopback: bool, readable: str) -> None:
    assert tasks_seen.is_loopback(end) is loopback
    assert tasks_seen.readable(end) == readable


@pytest.mark.parametrize(("state", "counts"), [("01", True), ("02", True), ("08", True), ("0A", False), ("06", False)])
def test_what_listens_or_only_waits_for_its_end_is_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, counts: bool
) -> None:
    monkeypatch.setattr(tasks_seen, "PROC", tmp_path)
    (tmp_path / "7" / "net").mkdir(parents=True)
    (tmp_path / "7" / "net" / "tcp").write_text(f"{TCP_HEAD}   0: 0100000A:0050 0200000A:1000 {state} 0\n")
    assert len(tasks_seen.connections(7).outside) == counts


def test_a_process_that_is_gone() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert tasks_seen.status_of(gone.pid) == {}
    assert tasks_seen.connections(gone.pid) == tasks_seen.Connections((), 0)
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
    assert seen.tasks[0].threads == threading.active_count()
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
