"""`--project`: all of a group in one go, or nothing of it: a p.haul for each, which wait for one another.

They are prepared one after the other, frozen together (those that depend on others first), and
committed together when all are restored and held at the target. Where one fails before that, or this
program dies, the others hear the end of their barrier and take everything back.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any

from phaul import interrupts, run
from phaul.barrier import GO, HELD, POISED
from phaul.errors import Blocked, Blocker, HaulFailed, Refused, from_peer
from phaul.htype import Driver
from phaul.streams import harmless

CHECK_SECONDS = 300
_LINE = 64
Json = dict[str, Any]


class Member:
    """One of them, and the p.haul that moves it; what that says is passed on, with the member's name."""

    def __init__(self, name: str, words: Sequence[str], *, raw: bool) -> None:
        self.name, self._raw = name, raw
        self.error: Json = {}
        self._barrier, theirs = socket.socketpair()
        with theirs:
            command = [sys.argv[0], *words, "--json", "--barrier", str(theirs.fileno())]
            self._process = run.start(command, pass_fds=(theirs.fileno(),))
        self._reader = threading.Thread(target=self._read, name=f"member-{name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if said["type"] == "error":
                    self.error = said
                if self._raw:
                    print(json.dumps({**said, "member": self.name}), flush=True)
                elif said["type"] != "error" and said.get("sentence"):
                    lines = harmless(said["sentence"]).split("\n")
                    print("\n".join(f"{self.name}: {words}" for words in lines), flush=True)

    def until(self, place: str) -> None:
        """Raises what it failed with."""
        if self._barrier.recv(_LINE) != f"{place}\n".encode():
            self.end()
            raise self.failure()

    def go(self) -> None:
        with contextlib.suppress(OSError):  # it has failed: its end tells
            self._barrier.sendall(GO)

    def end(self) -> int:
        """Wait for its end: the exit status."""
        done = self._process.wait()
        self._reader.join()
        return done

    def give_up(self) -> None:
        """It takes back what it has done, unless it is committed."""
        self._barrier.close()
        self.end()

    def failure(self) -> Exception:
        sentence = f"{self.name}: {self.error.get('sentence', 'its p.haul ended')}"
        if not self.error:
            return HaulFailed(sentence, code="group")
        return from_peer(sentence, self.error["code"], self.error["status"], self.error["detail"])


def haul(driver: Driver, options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Raises Blocked with all that speaks against any of them, Refused (no-groups), what one of them failed with."""
    if driver.members is None:
        raise Refused(f"Haul type {driver.name} knows no projects.", code="no-groups")
    names = driver.members(options.project)
    rest = _without_project(argv[1:])
    _check([(name, ["check", driver.name, name, *rest]) for name in names])
    members: list[Member] = []
    try:
        for name in names:
            members.append(Member(name, [driver.name, name, *rest], raw=options.json))
            members[-1].until(POISED)
        for member in reversed(members):
            member.go()
        for member in members:
            member.until(HELD)
        with interrupts.shielded():
            interrupts.too_late()
            for member in members:
                member.go()
            return _ended(members)
    except BaseException:
        with interrupts.shielded():
            for member in reversed(members):
                member.give_up()
        raise


def _ended(members: list[Member]) -> int:
    """Raises what the first failed with that failed after COMMIT."""
    failed = [member for member in members if member.end()]
    if failed:
        raise failed[0].failure()
    return 0


def _without_project(argv: Sequence[str]) -> list[str]:
    """The words of the command line that are for each of them."""
    found, skip = [], False
    for word in argv:
        if skip or word.startswith("--project=") or word == "--json":
            skip = False
        elif word == "--project":
            skip = True
        else:
            found.append(word)
    return found


def _check(checks: list[tuple[str, list[str]]]) -> None:
    """All of them, before any is touched. Raises Blocked."""
    blockers: list[Blocker] = []
    for name, words in checks:
        done = run.run([sys.argv[0], *words, "--json"], timeout=CHECK_SECONDS, check=False)
        document = json.loads(done.out or "{}")
        if error := document.get("error"):
            raise from_peer(f"{name}: {error['sentence']}", error["code"], error["status"], "")
        blockers += [
            Blocker(found["code"], f"{name}: {found['reason']}", found["remedy"], found["subject"])
            for found in document.get("findings", [])
            if found["level"] == "blocker"
        ]
    if blockers:
        raise Blocked(tuple(blockers))
