"""The image on its way: only the layers that the target lacks, the same image id at the end.

A `docker save` stream of engine 25 and newer is an OCI image layout whose layers are the files
blobs/sha256/<diff id>; `docker load` does not open the file of a layer whose chain it has.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import IO, Any

from phaul.docker_api import Engine, NoSuch

Json = dict[str, Any]
CHUNK = 1 << 20


def layers_here(engine: Engine, wanted: list[str]) -> int:
    """How many of the image's layers, from the bottom, this engine has as a chain."""
    best = 0
    for image in engine.images():
        layers = engine.image(image["Id"])["RootFS"].get("Layers") or []
        common = 0
        for mine, theirs in zip(layers, wanted, strict=False):
            if mine != theirs:
                break
            common += 1
        best = max(best, common)
    return best


def lacks(engine: Engine, image_id: str, layers: list[str]) -> list[str]:
    """What must be sent: ["config", diff ids …], or nothing where the image is here."""
    try:
        engine.image(image_id)
    except NoSuch:
        return ["config", *layers[layers_here(engine, layers) :]]
    return []


class _Joined(io.RawIOBase):
    """A readable file over chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = next(self._chunks, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def without_layers(stream: Iterator[bytes], left_out: set[str]) -> Iterator[bytes]:
    """The `docker save` stream without the files of these diff ids."""
    names = {f"blobs/sha256/{layer.removeprefix('sha256:')}" for layer in left_out}
    source = tarfile.open(fileobj=io.BufferedReader(_Joined(stream), CHUNK), mode="r|")
    for member in source:
        if member.name in names:
            continue
        yield member.tobuf(tarfile.PAX_FORMAT)
        content = source.extractfile(member) if member.isreg() else None
        if content:
            yield from _padded(content)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def _padded(content: IO[bytes]) -> Iterator[bytes]:
    """One member's bytes a chunk at a time, filled up to tar's blocks."""
    total = 0
    while data := content.read(CHUNK):
        yield data
        total += len(data)
    yield b"\0" * (-total % tarfile.BLOCKSIZE)
