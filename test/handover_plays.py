"""Plays on the stage of handover_stage.py, and whether what was seen there is what handover_model.py allows."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from handover_model import steps
from handover_search import good
from handover_state import State
from lab import LabError
from lab.waiting import until

from phaul import journal

STAGE = Path(__file__).with_name("handover_stage.py")
HAUL_S, SETTLE_S = 60, 60
IN_DOUBT = 8

Strike = tuple[str, tuple[str, ...]]  # a point, for at_point.py, and who is struck there


@dataclass(frozen=True)
class Play:
    """A haul in which processes are struck, and what is done about it then: "serve", "settle", or nothing yet ("rest").

    `strikes` are by the role of the process that comes to the point: source, target, and their guards.
    """

    mode: str = "auto"
    grace: float = 0.05
    strikes: dict[str, tuple[Strike, ...]] = field(default_factory=dict)
    then: tuple[tuple[str, tuple[Strike, ...]], ...] = ()


class Stage:
    """The program, and its orders. Also a context manager."""

    def __init__(self, top: Path) -> None:
        self.top, self.plays = top, 0
        self._process = subprocess.Popen(
            [sys.executable, STAGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def order(self, *words: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        print(json.dumps(words), file=self._process.stdin)
        return json.loads(self._process.stdout.readline())

    def play(self, play: Play) -> list[str]:
        """All that happened, once it is settled."""
        self.plays += 1
        place = self.top / f"{self.plays}"
        self.order("place", str(place))
        return _Played(self, place, play).run()


class _Played:
    """One play."""

    def __init__(self, stage: Stage, place: Path, play: Play) -> None:
        self.stage, self.place, self.play = stage, place, play
        self.service = 0

    def run(self) -> list[str]:
        for role, strikes in self.play.strikes.items():
            self._strike(role, strikes)
        self._serve()
        hauling = self.stage.order("haul", self.play.mode)
        assert self.stage.order("wait", hauling, HAUL_S) is not None, self._said("p.haul does not end")
        for what, strikes in self.play.then:
            if what == "serve":
                self._strike("target", strikes)
                self._serve()
            elif what == "settle":
                self._strike("source", strikes)
                self._settle()
            else:
                until(lambda: not self._guarded(), "the end of the guard of p.haul")
        self._end()
        return self._happened()

    def _strike(self, role: str, strikes: tuple[Strike, ...]) -> None:
        (self.place / f"{role}.hooks").write_text(json.dumps(strikes))

    def _happened(self) -> list[str]:
        return (self.place / "events").read_text().split()

    def _said(self, why: str) -> str:
        logs = "".join(path.read_text() for path in self.place.glob("logs/**/*.log"))
        return f"{why}: {self.play}\n{' '.join(self._happened())}\n{logs[-8000:]}"

    def _serve(self) -> None:
        """A service, unless one lives."""
        if self.service and self.stage.order("wait", self.service, 0) is None:
            return
        if self.service:
            with (self.place / "events").open("a") as events:
                events.write("start:target\n")
        self.service = self.stage.order("serve", self.play.grace)
        until(self._listens_or_is_dead, "the service to listen")

    def _listens_or_is_dead(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
            sock.connect(str(self.place / "run" / "service.sock"))
            return True
        # Struck before it could: its zombie waits to be asked for.
        return Path(f"/proc/{self.service}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    def _guarded(self) -> bool:
        """Whether p.haul's guard lives."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid = (self.place / "source-guard.pid").read_text()
            return STAGE.name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False

    def _settle(self) -> int:
        code: int | None = self.stage.order("wait", self.stage.order("settle"), SETTLE_S)
        assert code is not None, self._said("p.haul --resolve does not end")
        assert code in (0, 3, IN_DOUBT, -signal.SIGKILL), self._said(f"p.haul --resolve ended with {code}")
        return code

    def _end(self) -> None:
        """Nothing more is struck: it comes to its end."""
        for role in ("source", "target", "source-guard", "target-guard"):
            self._strike(role, ())
        try:
            until(self._settled, "its end", timeout=SETTLE_S, interval=0.05)
        except LabError:
            raise AssertionError(self._said("it does not settle")) from None
        os.kill(self.service, signal.SIGTERM)
        code = self.stage.order("wait", self.service, SETTLE_S)
        assert code in (0, -signal.SIGKILL), self._said(f"the service ended with {code}")

    def _settled(self) -> bool:
        self._serve()  # one that was struck may not have been dead before
        self._settle()
        states = {path.suffix: journal.read(path) for path in (self.place / "state" / "journal").iterdir()}
        if states.get(".target") and states[".target"].state == journal.LOST:
            return True
        return all(record.settled or not record.head for record in states.values())


class Acceptor:
    """The states that the model may be in after what was seen, all that cannot be seen being possible."""

    _followers: dict[State, list[tuple[str, State]]] = {}  # noqa: RUF012

    def __init__(self, mode: str) -> None:
        self.states = {State(faults=1, post=mode == "postcopy")}

    def take(self, name: str) -> bool:
        """Whether that can happen now."""
        self.states = {then for s in self._reached() for seen, then in self._next(s) if seen == name}
        return bool(self.states)

    def ends_well(self) -> bool:
        return any(map(good, self._reached()))

    def _reached(self) -> Iterator[State]:
        found, todo = set(self.states), list(self.states)
        while todo:
            for seen, then in self._next(todo.pop()):
                if not seen and then not in found:
                    found.add(then)
                    todo.append(then)
        return iter(found)

    @classmethod
    def _next(cls, s: State) -> list[tuple[str, State]]:
        """Faults are not counted here: those that can be seen are seen."""
        if s not in cls._followers:
            cls._followers[s] = [(step.name, step.then._replace(faults=1)) for step in steps(s)]
        return cls._followers[s]


def refused(events: list[str], mode: str) -> str:
    """The beginning of what was seen that the model does not allow, or ""."""
    acceptor = Acceptor(mode)
    for at, name in enumerate(events):
        if not acceptor.take(name):
            return " ".join(events[: at + 1])
    return "" if acceptor.ends_well() else " ".join([*events, "(no good end)"])


def promised(events: list[str]) -> bool:
    """Whether never two copies ran, nor none was left, told from what happened to the copies alone."""
    here, there, lost = "runs", "", False
    for name in events:
        lost = lost or name == "kill:pager"
        here = {"s:freeze": "frozen", "s:thaw": "runs", "s:end": "ended"}.get(name, here)
        there = {"t:hold": "held", "t:run": "runs", "t:gone": "gone"}.get(name, there)
        if (here == "runs" and there == "runs") or (here == "ended" and there != "runs"):
            return False
    return (here == "runs") != (there == "runs") or (lost and here == "frozen")
