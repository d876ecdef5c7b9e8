"""Following the engine's log files, whatever becomes of their names; and what a peer may send for them."""

from __future__ import annotations

import gzip
import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phaul import docker_logs
from phaul.errors import ProtocolError
from phaul.messages_pb2 import LogEntry

ID = "c0ffee"


class Engine:
    """As the engine writes and rotates: numbered entries, each third one on standard error."""

    def __init__(self, root: Path, driver: str) -> None:
        self.inspect: dict[str, Any] = {"Id": ID, "HostConfig": {"LogConfig": {"Type": driver}}}
        self.root, self._driver, self._count = root, driver, 0
        name = f"{ID}-json.log" if driver == "json-file" else "local-logs/container.log"
        self.path = root / "containers" / ID / name
        self.path.parent.mkdir(parents=True)
        self.path.touch()

    def write(self, count: int) -> None:
        with self.path.open("ab") as file:
            for _ in range(count):
                self._count += 1
                file.write(self.entry(self._count))

    def entry(self, number: int) -> bytes:
        stream = "stdout" if number % 3 else "stderr"
        if self._driver == "json-file":
            return json.dumps({"log": f"{number}\n", "stream": stream, "time": "2026-01-01T00:00:00Z"}).encode() + b"\n"
        data = LogEntry(source=stream, line=str(number).encode()).SerializeToString()
        return struct.pack(">I", len(data)) + data + struct.pack(">I", len(data))

    def rotate(self) -> None:
        for path in sorted(self.path.parent.glob(f"{self.path.name}.*"), key=number_of, reverse=True):
            suffix = ".gz" if path.suffix == ".gz" else ""
            path.rename(self.path.with_name(f"{self.path.name}.{number_of(path) + 1}{suffix}"))
        self.path.rename(self.path.with_name(f"{self.path.name}.1"))
        self.path.touch()

    def compress(self) -> None:
        for path in self.path.parent.glob(f"{self.path.name}.*[0-9]"):
            Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()

    def all(self) -> list[bytes]:
        return [self.entry(number) for number in range(1, self._count + 1)]

    def spoken(self, first: int) -> list[tuple[int, bytes]]:
        return [(1 if n % 3 else 2, f"{n}\n".encode()) for n in range(first, self._count + 1)]


def number_of(path: Path) -> int:
    return int(path.name.removesuffix(".gz").rpartition(".")[2])


def taken(history: docker_logs.History) -> bytes:
    """All of the pieces, as they would be read at the target."""
    return b"".join(
        gzip.decompress(b"".join(chunks)) if name.endswith(".gz") else b"".join(chunks)
        for name, chunks in history.files()
    )


DOINGS = st.lists(st.sampled_from(["write", "write", "rotate", "compress", "take"]), max_size=14)


@pytest.mark.parametrize("driver", ["json-file", "local"])
@given(doings=DOINGS)
def test_each_entry_comes_once(driver: str, doings: list[str]) -> None:
    with tempfile.TemporaryDirectory() as root:
        engine = Engine(Path(root), driver)
        history = docker_logs.History(engine.inspect, root)
        came = b""
        for doing in [*doings, "take"]:
            if doing == "take":
                came += taken(history)
            elif doing == "write":
                engine.write(4)
            else:
                getattr(engine, doing)()
        assert came == b"".join(engine.all())
        first = len(engine.all()) + 1
        engine.write(3)
        engine.rotate()
        engine.write(2)
        assert list(docker_logs.records(history.recent())) == engine.spoken(first)
        assert history.recent() == b""


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_half_an_entry_waits_for_its_other_half(tmp_path: Path, driver: str) -> None:
    engine = Engine(tmp_path, driver)
    engine.write(2)
    history = docker_logs.History(engine.inspect, str(tmp_path))
    third = engine.entry(3)
    for half in (third[:3], third[3:-2]):
        with engine.path.open("ab") as file:
            file.write(half)
        taken(history)
    with engine.path.open("ab") as file:
        file.write(third[-2:])
    assert list(docker_logs.records(history.recent())) == [(2, b"3\n")]


def test_it_is_as_long_as_its_files(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "json-file")
    history = docker_logs.History(engine.inspect, str(tmp_path))
    assert history.size() == 0
    engine.write(5)
    engine.rotate()
    engine.write(2)
    assert history.size() == len(b"".join(engine.all()))


def test_a_line_in_parts_stays_one(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "local")
    data = [LogEntry(source="stdout", line=b"be", partial=True), LogEntry(source="stdout", line=b"gun")]
    for entry in (one.SerializeToString() for one in data):
        with engine.path.open("ab") as file:
            file.write(struct.pack(">I", len(entry)) + entry + struct.pack(">I", len(entry)))
    history = docker_logs.History(engine.inspect, str(tmp_path))
    assert list(docker_logs.records(history.recent())) == []  # nothing was opened: there is no place to go on from
    taken(history)
    assert list(docker_logs._of_entries(engine.path.read_bytes())) == [(1, b"be"), (1, b"gun\n")]


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_what_is_kept_is_what_was_there(tmp_path: Path, driver: str) -> None:
    engine = Engine(tmp_path / "a", driver)
    engine.write(9)
    engine.rotate()
    engine.compress()
    engine.write(3)
    (tmp_path / "b" / "containers" / "cafe").mkdir(parents=True)
    history = docker_logs.History(engine.inspect, str(tmp_path / "a"))
    for more in (0, 4):
        engine.write(more)
        for name, chunks in history.files():
            docker_logs.keep(engine.inspect, str(tmp_path / "b"), "cafe", name, chunks)
    for path in engine.path.parent.iterdir():
        there = path.relative_to(engine.root / "containers" / ID)
        kept = tmp_path / "b" / "containers" / "cafe" / str(there).replace(ID, "cafe")
        assert kept.read_bytes() == path.read_bytes()
        assert kept.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", [".gz", "../x", ".1/../../x", ".x", ".1.xz", ".-1", ".1234567", "\n"])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    engine = Engine(tmp_path, "json-file")
    with pytest.raises(ProtocolError):
        docker_logs.keep(engine.inspect, str(tmp_path), ID, name, iter([b"x"]))
    engine.inspect["HostConfig"]["LogConfig"]["Type"] = "none"
    with pytest.raises(ProtocolError):
        docker_logs.keep(engine.inspect, str(tmp_path), ID, "", iter([b"x"]))


@pytest.mark.parametrize("data", [b"\1", b"\1\0\0\0\2x", b"\3\0\0\0\1x", b"\1\0\0\0\1x\2\xff\xff\xff\xff"])
def test_records_that_are_none(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(docker_logs.records(data))


def test_with_another_driver_there_is_nothing(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "json-file")
    engine.inspect["HostConfig"]["LogConfig"]["Type"] = "journald"
    history = docker_logs.History(engine.inspect, str(tmp_path))
    assert (list(history.files()), history.recent(), history.size()) == ([], b"", 0)
