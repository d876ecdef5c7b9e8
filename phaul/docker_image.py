"""The image on its way: only the layers that the target lacks, the same image id at the end.

A `docker save` stream of engine 25 and newer is an OCI image layout whose layers are the files
blobs/sha256/<diff id>; `docker load` does not open the file of a layer whose chain it has.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from typing import IO, Any

from phaul.docker_api import Engine, NoSuch
from phaul.errors import ProtocolError

Json = dict[str, Any]
CHUNK = 1 << 20
MAX_INDEX = 4 << 20
MEMBER = re.compile(r"blobs(/sha256(/[0-9a-f]{64})?)?|index\.json|manifest\.json|oci-layout")
NAMING = ("index.json", "manifest.json")
NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
CONFIG_FIELDS = ("Cmd", "Entrypoint", "Env", "ExposedPorts", "Labels", "StopSignal", "User", "Volumes", "WorkingDir")


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


def here(engine: Engine, document: Json) -> str | None:
    """The image's id in this engine's store, if it is there.

    Stores name images differently (overlay2 by the configuration, containerd by the manifest): the
    same layers and configuration are the same image.
    """
    with contextlib.suppress(NoSuch):
        return str(engine.image(document["id"])["Id"])
    for summary in engine.images():
        image = engine.image(summary["Id"])
        if content(image) == document["content"]:
            return str(image["Id"])
    return None


def content(image: Json) -> Json:
    """What makes an image what it is, whatever store it is in: layers, and what its containers get from it."""
    config = {name: value for name, value in (image.get("Config") or {}).items() if value}
    return {
        "layers": image["RootFS"].get("Layers") or [],
        "created": image.get("Created", ""),
        "config": {name: config[name] for name in sorted(config) if name in CONFIG_FIELDS},
    }


def lacks(engine: Engine, document: Json, *, by_layers: bool) -> list[str]:
    """What must be sent: ["config", diff ids …], or nothing where the image is here.

    `by_layers`: both stores name layers by their diff ids, so that those that are here can be left out.
    """
    if here(engine, document):
        return []
    layers: list[str] = document["content"]["layers"]
    return ["config", *layers[layers_here(engine, layers) if by_layers else 0 :]]


def size_of(engine: Engine, document: Json, lacks: list[str]) -> int:
    """Bytes of the layers that are lacking, about: the engine tells sizes without saying whose they are."""
    layers: list[str] = document["content"]["layers"]
    missing = len([layer for layer in layers if layer in lacks])
    if not missing:
        return 0
    sizes = [int(entry["Size"]) for entry in engine.history(document["id"]) if entry["Size"]]
    if len(sizes) == len(layers):
        return sum(sizes[:missing])
    return int(document["size"]) * missing // len(layers)


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


def untagged(stream: Iterator[bytes]) -> Iterator[bytes]:
    """A `docker save` stream of an image by its id, as it came: it gives no image of this host another name.

    Raises ProtocolError for a stream that would, and for what is none.
    """
    try:
        source = tarfile.open(fileobj=io.BufferedReader(_Joined(stream), CHUNK), mode="r|")
        for member in source:
            yield from _checked(source, member)
    except tarfile.TarError as error:
        raise ProtocolError(f"The source sent an image that cannot be read: {error}.") from None
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def _checked(source: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    """The member, under a head of our own: the engine reads what was looked at."""
    if not MEMBER.fullmatch(member.name) or not (member.isreg() or member.isdir()):
        raise ProtocolError(f"The source sent an image with {member.name[:80]!r} in it, which no image has.")
    head = tarfile.TarInfo(member.name)
    head.mode, head.type = (0o755, tarfile.DIRTYPE) if member.isdir() else (0o644, tarfile.REGTYPE)
    content = source.extractfile(member) if member.isreg() else None
    if not content:
        yield head.tobuf(tarfile.PAX_FORMAT)
        return
    head.size = member.size
    if member.name in NAMING:
        if member.size > MAX_INDEX:
            raise ProtocolError(f"The source sent an image whose {member.name} is longer than {MAX_INDEX} bytes.")
        told = content.read()
        _must_name_nothing(member.name, told)
        content = io.BytesIO(told)
    yield head.tobuf(tarfile.PAX_FORMAT)
    yield from _padded(content)


def _distinct(pairs: list[tuple[str, Any]]) -> Json:
    """The engine reads names in any case, and takes the last of several."""
    found = {name.lower(): value for name, value in pairs}
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


def _must_name_nothing(member: str, told: bytes) -> None:
    """The names of images are in two places: manifest.json is Docker's own, index.json OCI's."""
    try:
        document: Any = json.loads(told, object_pairs_hook=_distinct)
        if member == "index.json":
            noted = [entry.get("annotations") or {} for entry in document["manifests"]]
            names = [notes[name] for notes in noted for name in NAMES if name in notes]
        else:
            names = [tag for entry in document for tag in entry.get("repotags") or []]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"The source sent an image whose {member} is none: {error!r}.") from None
    if names:
        raise ProtocolError(f"The source sent an image that would be called {str(names[0])[:80]} here.")
