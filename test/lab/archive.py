"""Docker image archives (`docker load` format), made without a docker.

An archive depends on its content alone, so an image has the same id on every host that loads it.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CREATED = "2024-01-01T00:00:00Z"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "var")


@dataclass(frozen=True)
class Image:
    """What an image is made of: layer tar files, lowest first, and what it runs."""

    tag: str
    layers: tuple[Path, ...]
    command: tuple[str, ...]


def write_layer(
    target: Path, *, files: Mapping[str, bytes], links: Mapping[str, str], directories: Sequence[str] = ()
) -> None:
    """Write a layer's tar file with programs (mode 0755), symbolic links and directories in it."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in directories:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o755, len(content)
            tar.addfile(entry, io.BytesIO(content))
        for name, destination in sorted(links.items()):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, destination
            tar.addfile(entry)


def write(target: Path, image: Image) -> None:
    """Write the image's archive."""
    digests = [file_digest(layer) for layer in image.layers]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": CREATED,
        "config": {"Env": [PATH], "Cmd": list(image.command)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        "history": [{"created": CREATED, "created_by": f"layer {number}"} for number in range(len(digests))],
    }
    encoded = json.dumps(config, sort_keys=True).encode()
    config_name = f"{hashlib.sha256(encoded).hexdigest()}.json"
    names = [f"{digest}/layer.tar" for digest in digests]
    manifest = [{"Config": config_name, "RepoTags": [image.tag], "Layers": names}]
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, layer in dict(zip(names, image.layers, strict=True)).items():
            entry = tarfile.TarInfo(name)
            entry.size = layer.stat().st_size
            with layer.open("rb") as content:
                tar.addfile(entry, content)
        for name, data in ((config_name, encoded), ("manifest.json", json.dumps(manifest).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def file_digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
