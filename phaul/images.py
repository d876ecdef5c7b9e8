"""CRIU's image files to the target: each an ImageFile message, then its bytes; an empty name ends it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from phaul.connection import Connection
from phaul.errors import HaulFailed, ProtocolError
from phaul.messages_pb2 import ImageFile
from phaul.relay import Count

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")
CHUNK = 1 << 20
MAX_FILES = 100_000


def send(directory: Path, channel: Connection, *, on_bytes: Count = lambda *_: None) -> int:
    """Every file of the directory; the number of bytes."""
    total = 0
    for path in sorted(directory.iterdir()):
        size = path.stat().st_size
        channel.send(ImageFile(name=path.name, size=size))
        channel.link.send_chunks(_chunks(path), on_bytes=on_bytes)
        total += size
    channel.send(ImageFile())
    return total


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while data := file.read(CHUNK):
            yield data


def receive(directory: Path, channel: Connection) -> None:
    """Files into the directory, 0600, no others touched.

    Raises ProtocolError for a name that is none or comes twice, HaulFailed (images) where they cannot be stored,
    LinkLost.
    """
    for _ in range(MAX_FILES):
        head = channel.recv(ImageFile)
        if not head.name:
            return
        if not NAME.fullmatch(head.name):
            raise ProtocolError(f"The peer sent an image file of an impossible name ({head.name[:40]!r}).")
        _receive_one(directory / head.name, head.size, channel)
    raise ProtocolError(f"The peer sent more than {MAX_FILES} image files.")


def _receive_one(path: Path, size: int, channel: Connection) -> None:
    total = 0
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb", buffering=0) as file:
            for data in channel.link.recv_chunks():
                total += len(data)
                if total > size:
                    raise ProtocolError(f"Image file {path.name} is longer than its {size} bytes.")
                file.write(data)
    except FileExistsError:
        raise ProtocolError(f"The peer sent the image file {path.name} twice.") from None
    except OSError as error:
        raise HaulFailed(f"The target could not store {path.name}: {error.strerror}.", code="images") from None
    if total != size:
        raise ProtocolError(f"Image file {path.name} has {total} of its {size} bytes.")
