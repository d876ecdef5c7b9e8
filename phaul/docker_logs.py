"""What a container has said: the engine's log files, and those of their entries that came too late to go as files.

json-file (moby: daemon/logger/jsonfilelog): a line of JSON for each entry, in <id>-json.log. local
(daemon/logger/local): LogEntry (messages.proto) between its length and its length, of 4 bytes, in
local-logs/container.log. Rotated files have .1, .2 … after that, and .gz where they are compressed.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from google.protobuf.message import DecodeError

from phaul.errors import ProtocolError
from phaul.messages_pb2 import LogEntry

Json = dict[str, Any]
CHUNK = 1 << 20
SUFFIX = re.compile(r"(\.(\d{1,6})(\.gz)?)?", re.ASCII)
# A record of recent(): 1 or 2 for standard output or error, and the length of the text that follows.
RECORD = struct.Struct(">BI")
_LENGTH = struct.Struct(">I")
Spoken = Iterator[tuple[int, bytes]]


@dataclass(frozen=True)
class Kind:
    """A log driver: its current file, below the container's directory, and how entries are told apart and read."""

    path: Callable[[str], str]
    whole: Callable[[bytes], int]  # bytes of whole entries at the beginning
    spoken: Callable[[bytes], Spoken]


def _whole_lines(data: bytes) -> int:
    return data.rfind(b"\n") + 1


def _of_lines(data: bytes) -> Spoken:
    for line in data.split(b"\n"):
        with suppress(ValueError, RecursionError):  # a full disk leaves lines that are none
            entry = json.loads(line)
            if isinstance(entry, dict) and isinstance(said := entry.get("log"), str):
                yield 2 if entry.get("stream") == "stderr" else 1, said.encode(errors="replace")


def _whole_entries(data: bytes) -> int:
    at = 0
    while len(data) - at >= _LENGTH.size:
        end = at + _LENGTH.unpack_from(data, at)[0] + 2 * _LENGTH.size
        if end > len(data):
            break
        at = end
    return at


def _of_entries(data: bytes) -> Spoken:
    at = 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        with suppress(DecodeError, ValueError):
            entry = LogEntry.FromString(data[at + _LENGTH.size : at + _LENGTH.size + length])
            yield 2 if entry.source == "stderr" else 1, entry.line + (b"" if entry.partial else b"\n")
        at += length + 2 * _LENGTH.size


KINDS = {
    "json-file": Kind(lambda container: f"{container}-json.log", _whole_lines, _of_lines),
    "local": Kind(lambda _: "local-logs/container.log", _whole_entries, _of_entries),
}


def _kind(inspect: Json) -> Kind | None:
    return KINDS.get(inspect["HostConfig"]["LogConfig"]["Type"])


class History:
    """The log of a container that runs, in the engine's directory `root`; with other log drivers there is none."""

    def __init__(self, inspect: Json, root: str) -> None:
        self._kind = _kind(inspect)
        container = str(inspect["Id"])
        self._path = _file(root, container, self._kind) if self._kind else Path("/dev/null")
        self._place = Place(self._path)
        self._file: BinaryIO | None = None
        self._rest = b""

    def size(self) -> int:
        """Bytes in all of its files."""
        return sum(info.st_size for _, info in _in_order(self._path))

    def files(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """What it has said since the last call: what is behind the current file's name, and the bytes.

        The current file, "", is the last, and what it has then goes behind what it had before.
        """
        if not self._kind:
            return
        if self._file is None:
            opened = self._place.open_all()
            self._file = opened.pop() if opened else None
            for file in opened:
                with file:
                    yield file.name.removeprefix(str(self._path)), iter(partial(file.read, CHUNK), b"")
        yield "", self._more()

    def recent(self) -> bytes:
        """What it has said since files(), as records. Nothing is said any more."""
        if not self._kind:
            return b""
        said = self._kind.spoken(b"".join(self._more()))
        return b"".join(RECORD.pack(stream, len(text)) + text for stream, text in said)

    def _more(self) -> Iterator[bytes]:
        """Whole entries, from where the last call ended to the end of what is the current file now."""
        while self._file:
            yield from self._to_its_end(self._file)
            newer = self._place.next()
            if not newer:
                return
            # Nothing is written to a file that another has taken the place of; before that, something may have been.
            yield from self._to_its_end(self._file)
            self._file.close()
            self._file, self._rest = newer, b""

    def _to_its_end(self, file: BinaryIO) -> Iterator[bytes]:
        assert self._kind
        while data := file.read(CHUNK):
            data = self._rest + data
            whole = self._kind.whole(data)
            self._rest = data[whole:]
            if whole:
                yield data[:whole]


class Place:
    """Where a reader is among the files of a log, which the engine renames, compresses and removes as it goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: list[os.stat_result] = []
        self._at = 0

    def open_all(self) -> list[BinaryIO]:
        """The files, the oldest first; the place is the last, the current one, and as long as that is open."""
        opened: list[BinaryIO] = []
        for path, _ in _in_order(self._path):
            with suppress(FileNotFoundError):
                opened.append(path.open("rb"))
        self._known = [os.fstat(file.fileno()) for file in opened]
        self._at = len(opened) - 1
        return opened

    def next(self) -> BinaryIO | None:
        """The file that was begun after the one of this place, and is the place then; None: this one is current."""
        while True:
            files = _in_order(self._path)
            known = [info for _, info in files]
            at = self._here(known) + 1
            if at >= len(files):
                return None
            path, info = files[at]
            with suppress(FileNotFoundError):
                file = path.open("rb")
                if os.path.samestat(os.fstat(file.fileno()), info):
                    self._known, self._at = known, at
                    return cast(BinaryIO, gzip.open(file)) if path.suffix == ".gz" else file
                file.close()  # renamed in between: once more

    def _here(self, now: list[os.stat_result]) -> int:
        """The number in the list of now of the file of this place, which is another file since it was compressed.

        Files that are still what they were tell where the others are; where none is, the oldest is still the oldest.
        """
        order = sorted(range(len(self._known)), key=lambda number: number != self._at)
        for number in order:
            for place, info in enumerate(now):
                if _is_still(self._known[number], info, written=number == self._at):
                    return place + self._at - number
        return self._at


def _is_still(before: os.stat_result, now: os.stat_result, *, written: bool) -> bool:
    """Whether it is the same file: one that is not open here may be gone, and its number be another's."""
    return os.path.samestat(before, now) and (written or before.st_mtime_ns == now.st_mtime_ns)


def _in_order(path: Path) -> list[tuple[Path, os.stat_result]]:
    """The files of the log whose current file that is, the oldest first; one that is just compressed is there twice."""
    found: dict[int, tuple[Path, os.stat_result]] = {}
    for other in sorted([path, *path.parent.glob(f"{path.name}.*")], reverse=True):
        suffix = SUFFIX.fullmatch(other.name.removeprefix(path.name))
        if suffix:
            with suppress(FileNotFoundError):
                found[int(suffix[2] or 0)] = other, other.stat()
    return [found[number] for number in sorted(found, reverse=True)]


def _file(root: str, container: str, kind: Kind) -> Path:
    return Path(root) / "containers" / container / kind.path(container)


def records(data: bytes) -> Spoken:
    """Those of recent(): 1 or 2, and the text. Raises ProtocolError for what is none."""
    at = 0
    while at < len(data):
        if len(data) - at < RECORD.size:
            raise ProtocolError("The peer sent a piece of a log that ends in the middle.")
        stream, length = RECORD.unpack_from(data, at)
        at += RECORD.size + length
        if stream not in (1, 2) or at > len(data):
            raise ProtocolError("The peer sent a piece of a log that is none.")
        yield stream, data[at - length : at]


def keep(inspect: Json, root: str, container: str, suffix: str, chunks: Iterator[bytes]) -> None:
    """Put what `History.files` gave where the engine will look for it; the container was created, and never started.

    Raises ProtocolError for a name that no log file has.
    """
    kind = _kind(inspect)
    if not kind or not SUFFIX.fullmatch(suffix):
        raise ProtocolError("The peer sent a log file of a name that none has.")
    path = _file(root, container, kind)
    path = path.with_name(path.name + suffix)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(0o640)
    with path.open("ab") as file:
        for chunk in chunks:
            file.write(chunk)
