"""Both ends of a haul as processes of their own, with P.Haul's real workers and the driver of handover_copies.py.

A program that forks them, so that each is there at once and can be killed at an exact point (at_point.py). Left
out of the workers are the check, the choice of a way, and the pager.

Orders come as lines of JSON on standard input, and each is answered by one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "test")]

import at_point  # noqa: E402
from handover_copies import ABLE, DRIVER, NAME, Place, Serving, Source, alone, happens, last, leave, memory, missing  # noqa: E402

from phaul import guard, htype, iters, journal, keys, log, pages_target, places, resolve, service, service_args  # noqa: E402
from phaul.connection import Connection, greet  # noqa: E402
from phaul.display import Plain  # noqa: E402
from phaul.errors import PhaulError, Unreachable  # noqa: E402
from phaul.link import Link  # noqa: E402
from phaul.listener import Listener  # noqa: E402
from phaul.mstats import Stats  # noqa: E402
from phaul.preflight import Plan  # noqa: E402

PROGRAM = b"handover_stage.py"
NOTHING = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
PATIENCE_S = 0.2
OPTIONS = {
    "img_path": None,
    "barrier": None,
    "keep_images": False,
    "max_downtime": None,
    "postcopy_timeout": PATIENCE_S,
}
DIES_S = 10
SETTLE_S = 0.05  # how often a service looks for what it could not settle


# The way, and the guards


class Way:
    """In the place of a Reach: the service's local socket."""

    name = "local"
    links: ClassVar[list[Link]] = []

    def open(self, purpose: str, *, token: bytes = b"", channel: str = "", codec: str = "") -> Connection:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(places.RUN / "service.sock"))
        except OSError as error:
            sock.close()
            raise Unreachable(f"Nobody answers: {error}.") from None
        link = Link(sock, self.name)
        if purpose == "control":
            Way.links.append(link)
        return greet(link, purpose, token, channel, codec)

    def close(self) -> None: ...


class Guard(guard.Guard):
    """Forked: it is there at once."""

    def __init__(self, *words: str) -> None:
        ends, self._end = os.pipe()
        self.words = words
        self._pid = forked(lambda: self._live(ends))
        os.close(ends)
        (Place.top / f"{words[0]}-guard.pid").write_text(f"{self._pid}")

    def _live(self, ends: int) -> None:
        # What it has of its maker, the journal's lock above all, it must not keep.
        log.ROOT.handlers.clear()
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor not in (0, 1, 2, ends):
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        is_called(f"{self.words[0]}-guard", again=True)
        if os.read(ends, 1):
            return
        log.to_file(places.LOGS / "guard.log")
        if self.words[0] == "target":
            service.recover_all()
        else:
            resolve.after_death(self.words[1])

    def dismiss(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._end, b".")
        os.waitpid(self._pid, 0)

    def take_over(self) -> None:
        os.close(self._end)


def forked(live: Callable[[], object]) -> int:
    """A child that does that and nothing else; it ends with 0, or with the status of the error."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for descriptor in (0, 1):
            os.dup2(NOTHING, descriptor)
        live()
        code = 0
    except PhaulError as error:
        code = error.status
    finally:
        os._exit(code)


# What happens to them


def is_called(role: str, *, again: bool = False) -> None:
    """This process is the one that others kill by that name, and what is to happen at points of it will.

    A guard has been told its name by who made it, before it could say so itself (`again`).
    """
    if not again:
        (Place.top / f"{role}.pid").write_text(f"{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        for point, victims in json.loads((Place.top / f"{role}.hooks").read_text()):
            at_point.hook(point, lambda victims=victims: strike(victims))


def strike(victims: list[str]) -> None:
    """One after another: killed; the source's connections "cut"; "pager" or "holder" of the target dead."""
    with alone():
        for victim in victims:
            if victim == "cut":
                for link in Way.links:
                    link.close()
            elif victim == "holder":
                (Place.top / "unheld").touch()
            elif victim == "pager":
                if memory() == "missing" and last("t", "") in ("t:hold", "t:run"):
                    happens("kill:pager")
                    (Place.top / "memory").write_text("dead")
            else:
                killed(victim)


def killed(role: str) -> None:
    """SIGKILL for whoever lives by that name; who holds the lock kills nobody in the middle of a line."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        pid = int((Place.top / f"{role}.pid").read_text())
        if PROGRAM in Path(f"/proc/{pid}/cmdline").read_bytes():
            happens(f"kill:{role}")
            end = os.pidfd_open(pid)
            os.kill(pid, signal.SIGKILL)
            select.select([end], [], [], DIES_S)
            os.close(end)


def watch_journals() -> None:
    """Each state that a journal comes to happens."""
    write = journal.Journal._write

    def written(record: journal.Journal, line: dict[str, Any]) -> None:
        with alone():
            write(record, line)
            side = record.side[0].upper()
            if "state" in line or (side == "T" and "haul" in line):
                happens(f"{side}:{record.state}")

    journal.Journal._write = written


def stand_in() -> None:
    """What is left out of the workers."""
    watch_journals()
    htype.load = lambda _: DRIVER
    plan = Plan(ABLE, b"{}", (), 0)
    iters.preflight.plan = lambda *_: plan
    iters.Prospect.choose = lambda *_: None
    iters.Memory = iters.Serving = resolve.Memory = resolve.Serving = Serving
    iters.Guard = service_args.Guard = Guard
    resolve.targets.reach = lambda *_, **__: Way()
    resolve.PATIENCE_SECONDS, service_args.LOOK_SECONDS = PATIENCE_S, SETTLE_S
    pages_target.missing = missing
    pages_target.leave = leave
    for name in ("start", "await_startable", "stop"):
        setattr(pages_target, name, lambda *_, **__: None)
    # The service would settle the source's journals too, which are in the same directory here.
    service_args._settle_source = lambda: None
    iters.CHANNELS = ()


# The orders


def serve(grace: float) -> None:
    is_called("target")
    service.GRACE_SECONDS = grace
    options = argparse.Namespace(unix=True, bind_addr="", port=0, allow_privileged=False, allow_bind=[])
    service_args._serve(options, None, keys.Peers(Place.top / "etc"))


def haul(mode: str) -> None:
    is_called("source")
    options = argparse.Namespace(**OPTIONS, mode=mode, port=0, compress="none")
    stats = Stats()
    source = Source(NAME, options)
    iters.Haul(DRIVER, source, Way(), options, stats, Plain(stats, io.StringIO())).run()


def settle() -> None:
    is_called("source")
    record = resolve.of_subject(NAME)
    resolve.settle(record)


ORDERS: dict[str, Callable[..., None]] = {"serve": serve, "haul": haul, "settle": settle}


def main() -> None:
    stand_in()
    log.setup(verbosity=0, stream=False)
    children: dict[int, int] = {}
    for line in sys.stdin:
        name, *words = json.loads(line)
        print(json.dumps(obey(name, words, children)), flush=True)


def obey(name: str, words: list[Any], children: dict[int, int]) -> Any:
    if name == "place":
        Place.move(Path(words[0]))
        service_args.listener.Listener = partial(Listener, path=places.RUN / "service.sock")
        return None
    if name == "wait":
        return waited(words[0], words[1], children)
    pid = forked(lambda: ORDERS[name](*words))
    children[pid] = os.pidfd_open(pid)
    return pid


def waited(pid: int, seconds: float, children: dict[int, int]) -> int | None:
    """The status that it ended with, negative for a signal; None where it lives still."""
    if not select.select([children[pid]], [], [], seconds)[0]:
        return None
    os.close(children.pop(pid))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main()
