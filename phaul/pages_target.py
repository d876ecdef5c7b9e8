"""The service's side of a haul's pager: starting it, connecting the source to it, asking what is missing.

/run/phaul/pages/<haul>/ is what they share: token (the haul's, as hex), pager.sock, and the file
`complete` once every page has come. Another service than the one that began finds the pager there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import select
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from phaul import places, run
from phaul.errors import HaulFailed, Refused
from phaul.link import Link

LOG = logging.getLogger("phaul.pages")
PROJECT = Path(__file__).resolve().parent.parent
START = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); from phaul.pager import main; main()"
START_SECONDS = 60
ANSWER_SECONDS = 30
BUFFER, LINE = 1 << 20, 4096
KINDS = {"pages:bulk": "b", "pages:demand": "d", "pages:store": "s"}


def directory(haul: str) -> Path:
    return places.PAGES / haul


def start(haul: str, *, token: bytes, images: Path, work: Path) -> None:
    """Start the haul's pager and wait until it listens. Raises HaulFailed (pages)."""
    there = places.private_dir(directory(haul))
    (there / "token").touch(0o600)
    (there / "token").write_text(token.hex())
    process = run.start([sys.executable, "-c", START, there, images, work, haul], stderr=subprocess.DEVNULL)
    threading.Thread(target=process.wait, name="pager-end", daemon=True).start()
    assert process.stdout
    with process.stdout as said:
        ready, _, _ = select.select([said], [], [], START_SECONDS)
        if not ready or said.readline() != b"ready\n":
            run.kill(process)
            raise HaulFailed("The target's pager did not start: its log on that host says why.", code="pages")


def of_token(token: bytes) -> str:
    """The haul whose pager the token opens, or ""."""
    for found in places.PAGES.glob("*/token"):
        with contextlib.suppress(OSError):
            if token and found.read_text() == token.hex():
                return found.parent.name
    return ""


def carry(haul: str, link: Link, channel: str) -> None:
    """Connect the source with the pager, to the end of either. Raises LinkLost, Refused (no-pager)."""
    with _connected(haul, KINDS[channel]) as pager:
        link.relay(pager)


def missing(haul: str, *, patience: float = 0.0) -> int:
    """Bytes of memory still to come, asked again at the end of `patience` seconds unless all is there before.

    Raises HaulFailed (pages) where the tasks are not all restored, or the pager died.
    """
    if (directory(haul) / "complete").exists():
        return 0
    try:
        with _connected(haul, "w") as pager:
            said = b""
            while b"\n" not in said:
                said += pager.recv(LINE) or b"\n"
            left = int(json.loads(said.splitlines()[0])["missing"])
            if left and patience and (said.count(b"\n") > 1 or select.select([pager], [], [], patience)[0]):
                return missing(haul)
    except TimeoutError:
        return 1  # it is busy, not dead
    except (OSError, ValueError, Refused):
        if (directory(haul) / "complete").exists():
            return 0
        raise HaulFailed("The target's pager is not there any more.", code="pages") from None
    if left < 0:
        raise HaulFailed("Not all tasks that wait for memory are restored.", code="pages")
    return left


def await_startable(haul: str) -> None:
    """Until the tasks may run, as the pager sees it. Raises HaulFailed (pages)."""
    try:
        with _connected(haul, "f") as pager:
            if pager.recv(1):
                return
    except (OSError, Refused):
        pass
    # One that has ended well has put all in place.
    if missing(haul):
        raise HaulFailed("The first pages of the memory did not come.", code="pages")


def leave(haul: str) -> None:
    """All has come: the pager may still be putting it in place, and ends by itself."""
    with contextlib.suppress(OSError, Refused), _connected(haul, "l") as pager:
        if pager.recv(1):
            return
    shutil.rmtree(directory(haul), ignore_errors=True)


def stop(haul: str) -> None:
    """The pager goes, and what it shared; tasks that still lack pages are killed by its keeper."""
    with contextlib.suppress(OSError, Refused), _connected(haul, "q"):
        pass
    shutil.rmtree(directory(haul), ignore_errors=True)


@contextlib.contextmanager
def _connected(haul: str, kind: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as pager:
        pager.settimeout(ANSWER_SECONDS)
        pager.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        try:
            pager.connect(str(directory(haul) / "pager.sock"))
        except OSError as error:
            raise Refused(f"The haul's pager does not answer: {error.strerror}.", code="no-pager") from None
        pager.sendall(kind.encode())
        yield pager
