"""Starting a container from images through the restore runtime, held until released.

/run/phaul/restore/<container id>/ is what the runtime (shim.py) and the service share:
restore.json {images, work, switches, connections}, events (fifo: "held" comes on it), hold.sock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import socket
import threading
from pathlib import Path

from phaul import criu_log, docker_dump, freezer, places
from phaul.docker_api import Engine
from phaul.errors import HaulFailed, PhaulError

LOG = logging.getLogger("phaul.docker")
HELD_MARKS = 4  # the runtime's marks until it holds the tasks
SWITCHES = ["--file-locks", "--tcp-established"]
RESTORE_SECONDS = 3600
WORD_SECONDS = 30
EXIT_SECONDS = 30


def pending_dir(container: str) -> Path:
    return places.RESTORE / container


def announce(container: str, *, images: Path, work: Path, connections: bool, lazy: bool, runc: tuple[int, ...]) -> Path:
    """Tell the runtime to restore the container when the engine creates it; the shared directory."""
    pending = places.private_dir(pending_dir(container))
    places.private_dir(work)
    os.mkfifo(pending / "events", 0o600)
    # The images name no cgroups: the tasks stay in that which the runtime makes for the new container.
    switches = [*SWITCHES, *docker_dump.cgroup_switches(runc), *(["--lazy-pages"] if lazy else [])]
    document = {"images": str(images), "work": str(work), "switches": switches, "connections": connections}
    (pending / "restore.json").write_text(json.dumps(document))
    return pending


class Starting:
    """The engine's `start`, which lasts until the held tasks are released; followed in a thread."""

    def __init__(self, container: str) -> None:
        self.container = container
        self.error: PhaulError | None = None
        self._ended, self._end = os.pipe()
        self._thread = threading.Thread(target=self._start, name=f"start-{container[:12]}", daemon=True)

    def until_held(self) -> int:
        """Wait for the restored, frozen tasks: the first one's pid. Raises HaulFailed (restore)."""
        pending = pending_dir(self.container)
        events = os.open(pending / "events", os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(pending / "events", os.O_WRONLY | os.O_NONBLOCK)
        try:
            self._thread.start()
            ready, _, _ = select.select([events, self._ended], [], [], RESTORE_SECONDS)
            log_marks(self.container)
            if events not in ready:
                raise self._failure(pending)
        finally:
            os.close(writer)
            os.close(events)
        return int((pending / "restored").read_text())

    def _start(self) -> None:
        try:
            Engine(timeout=RESTORE_SECONDS).start(self.container)
        except PhaulError as error:
            self.error = error
        finally:
            os.close(self._end)

    def _failure(self, pending: Path) -> HaulFailed:
        document = json.loads((pending / "restore.json").read_text())
        line = criu_log.deciding_line(Path(document["work"]) / "restore.log")
        words = line or (self.error.sentence if self.error else "") or "no reason was given in time"
        detail = self.error.sentence if self.error else ""
        return HaulFailed(f"CRIU could not restore the container: {words}", code="restore", detail=detail)


def log_marks(container: str, *, skip: int = 0) -> None:
    """What the runtime wrote down of when it did what, but for the first `skip` lines of it."""
    with contextlib.suppress(OSError):
        for line in (pending_dir(container) / "times").read_text().splitlines()[skip:]:
            LOG.debug("mark: %s", line)


def say(container: str, word: str) -> None:
    """Tell the runtime that holds the tasks "ready", "release" or "discard". Raises HaulFailed (not-held)."""
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(WORD_SECONDS)
            peer.connect(str(pending_dir(container) / "hold.sock"))
            peer.sendall(word.encode() + b"\n")
            answer = peer.recv(32)
    except OSError as error:
        raise HaulFailed(f"Nothing holds the restored tasks any more: {error}.", code="not-held") from None
    if not answer:
        raise HaulFailed("The restore runtime left without an answer.", code="not-held")


def was_released(container: str) -> bool:
    return (pending_dir(container) / "released").exists()


def discard(container: str) -> None:
    """Whatever there is of a restore goes: the held tasks, the shared directory. Raises HaulFailed where tasks stay."""
    pending = pending_dir(container)
    first = 0
    with contextlib.suppress(OSError, ValueError):
        first = int((pending / "restored").read_text())
    with contextlib.suppress(HaulFailed):
        say(container, "discard")
    if first:
        end_tasks(first, container)
    shutil.rmtree(pending, ignore_errors=True)


def end_tasks(first: int, container: str) -> None:
    if not freezer.end(first, container, timeout=EXIT_SECONDS):
        raise PhaulError(f"Process {first} of the restored container does not end.", code="not-ended")


def forget(container: str) -> None:
    """The container runs: the shared directory goes."""
    shutil.rmtree(pending_dir(container), ignore_errors=True)
