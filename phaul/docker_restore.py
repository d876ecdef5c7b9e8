"""Starting a container from images through the restore runtime, held until released.

/run/phaul/restore/<container id>/ is what the runtime (shim.py) and the service share: restore.json
{images, work, switches}, events (a fifo on which "poised", "first" and "held" come), wait.sock and hold.sock,
bundle (the path of the runtime's own), criu.conf, cgroup (that which hold.sh froze), task (the first one's
pid), restored (the same, when it is; released in its place, once the tasks run), and, for hold.sh to carry
out in the new network namespace, rules and early. <work>/images/descriptors.json is a fifo, at which runc waits for
the images.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import select
import shutil
import socket
import struct
import threading
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from phaul import criu_api, criu_log, diagnosis, docker_dump, docker_logs, freezer, places, run, tasks_seen
from phaul.docker_api import Engine
from phaul.errors import HaulFailed, PhaulError

LOG = logging.getLogger("phaul.docker")
Json = dict[str, Any]
WAIT, HOLD = "wait.sock", "hold.sock"
SWITCHES = ["--file-locks", "--tcp-established"]
POISE_SECONDS = 60
RESTORE_SECONDS = 3600
WORD_SECONDS = 30
START_SECONDS = 30
EXIT_SECONDS = 30
PULSE_SECONDS, STALL_SECONDS = 1, 60
OF_RUNTIME = "OCI runtime"  # in what the engine says where that, and not it, could not go on
CALLED_OFF_SECONDS, LOCK_PAUSE_SECONDS = 3, 0.02
_CREDENTIALS = struct.Struct("=iII")  # unix(7): pid, uid, gid


def pending_dir(container: str) -> Path:
    return places.RESTORE / container


def announce(container: str, *, images: Path, work: Path, lazy: bool, runc: tuple[int, ...]) -> None:
    """Tell the runtime to restore the container when the engine creates it. Raises Refused (tool-missing)."""
    for name in ("unshare", "perl"):  # of criu_inside.pl
        run.tool(name)
    pending = places.private_dir(pending_dir(container))
    places.private_dir(work)
    os.mkfifo(pending / "events", 0o600)
    # The images name no cgroups: the tasks stay in that which the runtime makes for the new container.
    switches = [*SWITCHES, *docker_dump.cgroup_switches(runc), *(["--lazy-pages"] if lazy else [])]
    document = {"images": str(images), "work": str(work), "switches": switches}
    (pending / "restore.json").write_text(json.dumps(document))


def work_of(pending: Path) -> Path:
    """CRIU's work directory, as it was announced."""
    return Path(json.loads((pending / "restore.json").read_text())["work"])


@dataclass(frozen=True)
class Network:
    """What is done about it while CRIU restores: lines of its configuration, for nft, for ip -batch."""

    criu: str = ""
    rules: str = ""
    early: str = ""

    def announce(self, pending: Path) -> None:
        for name, text in (("rules", self.rules), ("early", self.early)):
            if text:
                (pending / name).write_text(text)
        with (pending / "criu.conf").open("a") as file:
            file.write(self.criu)


class Starting:
    """The engine's `start`, which lasts until it is to take the held tasks for started; followed in a thread."""

    def __init__(self, container: str) -> None:
        self.container = container
        self.error = ""  # the engine's sentence: the exception would hold this object, and its descriptors
        ended, self._end = os.pipe()
        # As files: where the haul is off before it is held, they go with this object.
        self._ended = open(ended, "rb", buffering=0)
        events = os.open(pending_dir(container) / "events", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._events = open(events, "rb", buffering=0)
        self._first, self._pid = list[FileIO](), 0  # a descriptor of the first task, and its pid, once there is one
        self._thread = threading.Thread(target=self._start, name=f"start-{container[:12]}", daemon=True)

    def until_poised(self) -> None:
        """Wait until nothing but the images is lacking. Raises HaulFailed (restore)."""
        self._thread.start()
        self._await(b"poised", POISE_SECONDS)

    def until_held(self, network: Network, *, recent: bytes) -> int:
        """The images are there: wait for the held tasks; the first one's pid. Raises HaulFailed (restore).

        `recent` is what they said last, as docker_logs has it.
        """
        network.announce(pending_dir(self.container))
        with contextlib.suppress(HaulFailed, OSError):
            speak(self.container, recent)
        with contextlib.suppress(HaulFailed):
            say(self.container, "restore", WAIT)
        try:
            self._await(b"held", RESTORE_SECONDS)
        finally:
            _log_marks(self.container)
            for watched in (self._events, *self._first):
                watched.close()
        return int((pending_dir(self.container) / "restored").read_text())

    def commence(self) -> None:
        """The engine takes the tasks for started from now on, and writes that down. Raises HaulFailed (not-held)."""
        say(self.container, "start")

    def until_started(self) -> None:
        """It has written it down, and so knows of them whatever becomes of it. Raises HaulFailed (not-held)."""
        ready, _, _ = select.select([self._ended], [], [], START_SECONDS)
        if not ready or self.error:
            why = self.error or f"it has not said so within {START_SECONDS} s."
            raise HaulFailed(f"The target's engine could not start the container: {why}", code="not-held")

    def _await(self, word: bytes, timeout: float) -> None:
        until, progress = freezer.deadline(timeout), Progress(self.container)
        while freezer.deadline(0) < until:
            ready, _, _ = select.select([self._events, self._ended, *self._first], [], [], PULSE_SECONDS)
            if self._events in ready:
                if word in self._heard():
                    return
            elif self._ended in ready:
                break
            elif why := self._hopeless(progress, ended=bool(ready)):
                LOG.error("The restore is ended: %s", why)
                self._first = []
                criu_api.kill(progress.work)
                _let_go(self.container)
                # The engine has nothing to wait for any more, but may do so.
                until = min(until, freezer.deadline(CALLED_OFF_SECONDS))
        raise self._failure(pending_dir(self.container))

    def _hopeless(self, progress: Progress, *, ended: bool) -> str:
        """Why it will not be held, though nobody has said so; "" while it may be.

        An engine that cannot go on (to make the network, say) kills the first task, and waits for its end. CRIU does
        not always notice; and a task that was frozen meanwhile ends when it is thawed.
        """
        if ended or (self._pid and tasks_seen.is_doomed(self._pid)):
            return "the first task was killed"
        return f"nothing has happened for {STALL_SECONDS} s" if progress.stalls() else ""

    def _heard(self) -> list[bytes]:
        """What the runtime has said; the first task, once there is one, is watched from then on."""
        words = (self._events.read(select.PIPE_BUF) or b"").splitlines()
        if b"first" in words:
            self._pid = int((pending_dir(self.container) / "task").read_text())
            with contextlib.suppress(ProcessLookupError):
                self._first = [open(os.pidfd_open(self._pid), "rb", buffering=0)]
        return words

    def _start(self) -> None:
        try:
            Engine(timeout=RESTORE_SECONDS).start(self.container)
        except PhaulError as error:
            self.error = error.sentence
        finally:
            os.close(self._end)

    def _failure(self, pending: Path) -> HaulFailed:
        line = criu_log.deciding_line(work_of(pending) / "restore.log")
        if self.error and OF_RUNTIME not in self.error:
            return HaulFailed(f"The target's engine gave the container up: {self.error}", code="restore", detail=line)
        words = line or self.error or "no reason was given in time"
        sentence, said = diagnosis.told("CRIU could not restore the container", words)
        return HaulFailed(sentence, code="restore", detail=f"{said}\n{self.error}".strip())


class Progress:
    """CRIU's log while it restores, and whether that is over: where one of its processes is killed (for want of memory,
    say), the others wait.
    """

    def __init__(self, container: str) -> None:
        self._pending = pending_dir(container)
        self.work = work_of(self._pending)
        self._seen, self._since = (False, 0), freezer.deadline(0)

    def stalls(self) -> bool:
        """Whether the log has not grown for long; or, where the restore is over, the engine has not gone on since."""
        size = 0  # runc has not come to start CRIU
        with contextlib.suppress(FileNotFoundError):
            size = (self.work / "restore.log").stat().st_size
        seen = (self._pending / "restored").exists(), size
        if seen != self._seen:
            self._seen, self._since = seen, freezer.deadline(0)
        return freezer.deadline(-STALL_SECONDS) > self._since


def _log_marks(container: str) -> None:
    """What the runtime wrote down of when it did what."""
    with contextlib.suppress(OSError):
        for line in (pending_dir(container) / "times").read_text().splitlines():
            LOG.debug("mark: %s", line)


def say(container: str, word: str, door: str = HOLD) -> None:
    """Tell the runtime its word at that socket, and hear its answer. Raises HaulFailed (not-held)."""
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(WORD_SECONDS)
            peer.connect(str(pending_dir(container) / door))
            peer.sendall(word.encode() + b"\n")
            answer = peer.recv(32)
    except OSError as error:
        raise HaulFailed(f"Nothing holds the restored tasks any more: {error}.", code="not-held") from None
    if not answer:
        raise HaulFailed("The restore runtime left without an answer.", code="not-held")


def speak(container: str, records: bytes) -> None:
    """Say it again, into the pipes to the engine that the waiting runtime has for its output. Raises OSError."""
    if not records:
        return
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(pending_dir(container) / WAIT))
        pid, _, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    with contextlib.ExitStack() as stack:
        pipes = {number: stack.enter_context(open(f"/proc/{pid}/fd/{number}", "wb")) for number in (1, 2)}
        for stream, text in docker_logs.records(records):
            pipes[stream].write(text)
            pipes[stream].flush()


def spec_of(container: str) -> Json:
    """What the engine told the runtime of the container that it restores."""
    spec: Json = json.loads((Path((pending_dir(container) / "bundle").read_text()) / "config.json").read_text())
    return spec


def release(first: int, container: str) -> None:
    """Let the held tasks run; does nothing where they do already.

    Raises HaulFailed (gone), (not-held) where they have not run and never will.
    """
    if was_released(container):
        return
    held = freezer.of_container(first, container)
    if held.frozen():
        must_not_be_doomed(held.pids())
    held.thaw()
    LOG.debug("mark: thaw")
    with contextlib.suppress(FileNotFoundError):  # by somebody else, this very moment
        os.rename(pending_dir(container) / "restored", pending_dir(container) / "released")


def must_not_be_doomed(pids: list[int]) -> None:
    """Raises HaulFailed (not-held) where any of these frozen tasks would only end when it is thawed."""
    if any(map(tasks_seen.is_doomed, pids)):
        raise HaulFailed(
            "A restored task is to be killed as soon as it is released (for want of memory, say).", code="not-held"
        )


def was_released(container: str) -> bool:
    return (pending_dir(container) / "released").exists()


def discard(container: str) -> None:
    """Whatever there is of a restore goes: the held tasks, the shared directory. Raises HaulFailed where tasks stay."""
    pending = pending_dir(container)
    first = 0
    for door in (WAIT, HOLD):
        with contextlib.suppress(HaulFailed):
            say(container, "discard", door)
    _end_restore(container)
    _let_go(container)
    with contextlib.suppress(OSError, ValueError):
        first = int((pending / "restored").read_text())
    if first:
        end_tasks(first, container)
    shutil.rmtree(pending, ignore_errors=True)


def _let_go(container: str) -> None:
    """Tasks whose first one has ended are frozen still, and nobody holds them."""
    with contextlib.suppress(FileNotFoundError):
        path = Path((pending_dir(container) / "cgroup").read_text().strip())
        if container in path.name:
            freezer.Freezer(path, freezer.is_v2()).kill()


def _end_restore(container: str) -> None:
    """A CRIU whose engine died waits for what only that could tell: it goes, and runc tidies up after it.

    Raises PhaulError (not-ended) where it does not.
    """
    pending = pending_dir(container)
    try:
        lock = os.open(pending / "lock", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        for patience in (CALLED_OFF_SECONDS, EXIT_SECONDS):
            _shut_gate(pending)
            if _becomes_free(lock, patience):
                return
            criu_api.kill(work_of(pending))
            for cgroup in places_of_cgroup(container):
                freezer.kill_all(cgroup)
        raise PhaulError("A restore that was called off does not end.", code="not-ended")
    finally:
        os.close(lock)


def _shut_gate(pending: Path) -> None:
    """Of no images runc gives up: its engine, as it died, took the runtime with it, which should have told runc.

    Where runc waits for nothing there is no fifo any more that somebody reads, and nothing is done.
    """
    with contextlib.suppress(OSError):
        gate = work_of(pending) / "images" / "descriptors.json"
        os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def _becomes_free(lock: int, seconds: float) -> bool:
    """Whether neither a restore nor a hold has it any more."""
    until, pause = freezer.deadline(seconds), threading.Event()
    while not _free(lock):
        if freezer.deadline(0) > until:
            return False
        pause.wait(LOCK_PAUSE_SECONDS)
    return True


def _free(lock: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def places_of_cgroup(container: str) -> list[Path]:
    """Directories that a failed restore may leave in any hierarchy."""
    return [path for pattern in ("docker", "*/docker") for path in freezer.CGROUP.glob(f"{pattern}/{container}")]


def end_tasks(first: int, container: str) -> None:
    if not freezer.end(first, container, timeout=EXIT_SECONDS):
        raise PhaulError(f"Process {first} of the restored container does not end.", code="not-ended")


def forget(container: str) -> None:
    """The container runs: the shared directory goes."""
    shutil.rmtree(pending_dir(container), ignore_errors=True)
