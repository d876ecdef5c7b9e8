"""Haul type pid: a process and its descendants, by CRIU alone.

Its files are not carried: both hosts share a file system, or have the same files. The tasks keep
their pids. They are held stopped (SIGSTOP, CRIU's --leave-stopped), and released by SIGCONT.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil

from phaul import criu_api, documents, freezer, sample, task_checks, tasks_seen
from phaul.errors import Blocker, HaulFailed, Refused
from phaul.host_facts import pycriu_blockers
from phaul.htype import Capabilities, Dumped, Tree
from phaul.journal import Journal
from phaul.overview import REFUSED, Answer, Connection, Overview, Part
from phaul.pid_files import FILE, FileSeen, files_of, lacking
from phaul.policy import CODE, Policy
from phaul.tasks_seen import Written

CAPABILITIES = Capabilities.of_words(["hold", "compress"])
_PID = documents.within(1, 1 << 22)  # PID_MAX_LIMIT of the kernel
WANTED = documents.record(
    pids=documents.each(_PID),
    threads=documents.each(_PID),
    files=documents.each(FILE),
    shell_job=documents.flag,
    root=documents.place,
    rpid=documents.place,
)
OPTIONS = documents.record()
Json = dict[str, Any]
EXIT_SECONDS = 30.0

__all__ = ["CAPABILITIES", "OPTIONS", "WANTED", "Source", "Target", "add_arguments"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `p.haul pid`."""
    parser.add_argument("subject", metavar="pid", help="the first process of the tree that moves")
    parser.add_argument("-j", "--shell-job", action="store_true", help="it belongs to a shell's session or terminal")
    parser.add_argument("--pid-root", metavar="DIR", help="the root directory to restore it in (default: the host's)")
    parser.add_argument("--dst-rpid", metavar="FILE", help="write its pid to FILE at the target")


def tree_of(pid: int) -> list[int]:
    """The process and its descendants, the process first."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return []


def named(pids: list[int]) -> list[list[Any]]:
    """Each with what tells it from a later process of the same pid, for the journal."""
    return [[pid, tasks_seen.born(pid)] for pid in pids]


def living(pids: list[list[Any]]) -> list[int]:
    """Those of named() that are still the same processes."""
    return [pid for pid, born in pids if born and tasks_seen.born(pid) == born]


class Source:
    """A process tree of this host."""

    def __init__(self, subject: str, options: argparse.Namespace) -> None:
        if not (subject.isascii() and subject.isdecimal()) or not tree_of(int(subject)):
            raise Refused(f"There is no process {subject!r} on this host.", code="no-such-process")
        self.pid = int(subject)
        self.options = options
        self.name = subject

    def check(self) -> list[Blocker]:
        found = pycriu_blockers("this host")
        status = tasks_seen.status_of(self.pid)
        if self.pid == 1 or "VmSize" not in status:
            found.append(self._of("not-movable", "is the host's first process or a kernel thread", "name another one"))
        if os.getpid() in tree_of(self.pid):
            found.append(self._of("not-movable", "is an ancestor of this p.haul", "start p.haul elsewhere"))
        if os.getsid(self.pid) != self.pid and not self.options.shell_job:
            found.append(self._of("shell-job", "belongs to a session of another process", "move it with --shell-job"))
        for connection in self._outside()[:1]:
            found.append(self._of("connections", f"has a connection that would break ({connection})", "close it first"))
        return found + task_checks.of_tasks(tree_of(self.pid), f"process {self.pid}")

    def _of(self, code: str, words: str, remedy: str) -> Blocker:
        return Blocker(code, f"Process {self.pid} {words}", remedy, f"process {self.pid}")

    def facts(self) -> dict[str, str]:
        return {}

    def overview(self, lacks: list[str]) -> Overview:
        memory = Part("memory", "memory", tasks_seen.memory(tree_of(self.pid)))
        return Overview((memory,), tuple(Connection(ends, REFUSED) for ends in self._outside()))

    def _outside(self) -> list[str]:
        """Its own connections to others; the namespace is the host's and has more."""
        ends = []
        for pid in tree_of(self.pid):
            with contextlib.suppress(psutil.Error):
                for seen in psutil.Process(pid).net_connections(kind="tcp"):
                    if seen.raddr and not str(seen.raddr.ip).startswith("127."):
                        ends.append(f"{seen.laddr.ip}:{seen.laddr.port} - {seen.raddr.ip}:{seen.raddr.port}")
        return ends

    def wanted(self) -> Json:
        pids = tree_of(self.pid)
        return {
            "pids": pids,
            "memory": tasks_seen.memory(pids),
            "threads": sorted({thread.id for pid in pids for thread in psutil.Process(pid).threads()}),
            "files": [seen.document() for seen in files_of(pids)],
            "shell_job": bool(self.options.shell_job),
            "root": self.options.pid_root or "",
            "rpid": self.options.dst_rpid or "",
        }

    def trees(self) -> list[Tree]:
        return []

    def written(self) -> Written:
        return Written()

    def sample(self, most: int) -> list[bytes]:
        return sample.of(tree_of(self.pid), most)

    def image(self, lacks: list[str]) -> Iterator[bytes] | None:
        return None

    def brief_stops(self, journal: Journal) -> AbstractContextManager[Callable[[Callable[[], None]], None]]:
        raise HaulFailed("A process is not stopped before it is dumped.", code="no-pre-dump")

    @contextlib.contextmanager
    def poised(self, journal: Journal, images: Path, logs: Path, *, lazy: bool) -> Iterator[None]:
        self.logs = logs
        yield

    def freeze(self, journal: Journal) -> None:
        """CRIU stops them as it dumps."""
        pids = named(tree_of(self.pid))
        journal.note(pids=pids)
        journal.push("stop", pids=pids, work=journal.head["work"])

    def dump(self, images: Path, *, lazy: bool) -> Dumped:
        options = {"shell_job": self.options.shell_job, "root": self.options.pid_root}
        try:
            criu_api.dump(self.pid, images, options)
        finally:
            _move_log(images / "dump.log", self.logs)
        return Dumped({}, tasks_seen.expectation(sorted(tree_of(self.pid)), mounts=False))

    def stands_still(self) -> None:
        states = [tasks_seen.status_of(pid).get("State", "X")[0] for pid in tree_of(self.pid)]
        if not states or set(states) - set("TZ"):
            raise HaulFailed("The processes have run since they were dumped: somebody has let them.", code="not-frozen")

    @staticmethod
    def tasks(facts: Json) -> dict[int, int]:
        return {pid: pid for pid, _ in facts["pids"]}

    @staticmethod
    def finish(facts: Json) -> list[str]:
        ours = living(facts["pids"])
        for pid in ours:
            os.kill(pid, signal.SIGKILL)
        for pid in ours:
            if not freezer.await_exit(pid, timeout=EXIT_SECONDS):
                raise HaulFailed(f"Process {pid} here does not end.", code="source-not-ended")
        return ["The processes here have ended."]

    @staticmethod
    def undo(kind: str, args: Json) -> None:
        """Kind "stop": let them run."""
        criu_api.await_end(Path(args["work"]))
        for pid in living(args["pids"]):
            os.kill(pid, signal.SIGCONT)


def came_since(pid: int, *, boot: str, seconds: float) -> bool:
    """Whether the process was started in that boot, not before so many seconds of it (its ticks are rounded down)."""
    found, _, ticks = tasks_seen.born(pid).partition(" ")
    return found == boot and int(ticks) / os.sysconf("SC_CLK_TCK") >= seconds - 0.02


class Target:
    """A process tree that comes to this host."""

    def __init__(self, wanted: Json, journal: Journal, policy: Policy) -> None:
        self.wanted = wanted
        self.journal = journal
        self.first = 0

    @staticmethod
    def admit(wanted: Json, policy: Policy) -> list[Blocker]:
        """Nothing confines what it brings."""
        if policy.privileged:
            return []
        reason = f"A process would run on {os.uname().nodename} as one of its own, with every right"
        return [Blocker(CODE, reason, "start p.haul-service there with --allow-privileged", "haul type pid")]

    @staticmethod
    def check(wanted: Json, policy: Policy) -> Answer:
        # Who may not bring one is not told which files and processes there are.
        if refused := Target.admit(wanted, policy):
            return Answer(tuple(refused))
        here = os.uname().nodename
        found = [*pycriu_blockers(here), *_confined(here)]
        taken = [number for number in wanted["threads"] if Path(f"/proc/{int(number)}").exists()]
        if taken:
            reason = f"Pid {taken[0]} is in use on {here}, and the process keeps its pid"
            found.append(Blocker("pid-taken", reason, "try again later or another host", here))
        root = Path(wanted["root"] or "/")
        seen = [FileSeen.of_document(document) for document in wanted["files"]]
        found += [
            Blocker("file-differs", f"{words} on {here}", "the process needs the same files there", here)
            for words in lacking(seen, root)
        ]
        if wanted["rpid"] and Path(wanted["rpid"]).exists():
            remedy = "name another file with --dst-rpid"
            found.append(Blocker("file-exists", f"{wanted['rpid']} exists on {here}", remedy, here))
        return Answer(tuple(found))

    def receive_image(self, chunks: Iterator[bytes]) -> None:
        raise HaulFailed("A process has no image.", code="no-image")

    def keep_history(self, name: str, chunks: Iterator[bytes]) -> None:
        raise HaulFailed("A process has no log.", code="no-log")

    def keep_recent(self, chunks: Iterator[bytes]) -> None:
        raise HaulFailed("A process has no log.", code="no-log")

    def prepare(self) -> list[Path]:
        return []

    def poise(self, images: Path, *, lazy: bool) -> None:
        pass

    def restore(self, images: Path, options: Json, logs: Path) -> str:
        since = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.journal.push("restored", pids=self.wanted["pids"], boot=tasks_seen.boot_id(), since=since)
        try:
            self.first = criu_api.restore(images, {"shell_job": self.wanted["shell_job"], "root": self.wanted["root"]})
        finally:
            _move_log(images / "restore.log", logs)
        self.journal.note(container=str(self.first), pids=named(self.pids()), rpid=self.wanted["rpid"])
        return str(self.first)

    def pids(self) -> list[int]:
        return tree_of(self.first)

    def commence(self) -> None:
        """Nobody looks after them here."""

    def ready(self) -> None:
        states = [tasks_seen.status_of(pid).get("State", "X")[0] for pid in self.pids()]
        if not states or set(states) - set("TZ"):
            raise HaulFailed("The restored processes are not held any more.", code="not-held")

    @staticmethod
    def release(facts: Json) -> None:
        for pid in living(facts["pids"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    @staticmethod
    def kill(facts: Json) -> None:
        for pid in living(facts["pids"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @staticmethod
    def settle(facts: Json) -> None:
        if facts["rpid"]:
            with contextlib.suppress(FileExistsError), Path(facts["rpid"]).open("x") as file:
                file.write(f"{facts['container']}\n")

    @staticmethod
    def undo(kind: str, args: Json) -> None:
        """Kind "restored": kill what came since, unless the host was started anew: then others have the pids."""
        for pid in args["pids"]:
            if came_since(pid, boot=args["boot"], seconds=args["since"]):
                os.kill(pid, signal.SIGKILL)
                freezer.await_exit(pid, timeout=EXIT_SECONDS)


def _confined(here: str) -> list[Blocker]:
    """What is restored is a process of the service, in its namespaces; where it is a unit, it also ends with that."""
    if tasks_seen.namespace(os.getpid(), "mnt") == tasks_seen.namespace(1, "mnt"):
        return []
    reason = f"p.haul-service on {here} is confined to a mount namespace (as its systemd unit is), the process would be"
    return [Blocker("service-confined", reason, "start p.haul-service there by hand", "haul type pid")]


def _move_log(log: Path, logs: Path) -> None:
    """Out of the images, which travel."""
    with contextlib.suppress(OSError):
        (logs / log.name).write_bytes(log.read_bytes())
        log.unlink()
