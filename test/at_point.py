"""Runs one of P.Haul's programs and does something at an exact point of its code.

    at_point.py WORD... -- PROGRAM ARG...

    WORD    POINT ACTION, or set=MODULE:NAME=NUMBER; any number of them

    POINT   state=STATE      the journal has gone over to the state (begun, frozen, …), on disk
            push=KIND        an undo step of the kind is announced, on disk; its act has not begun
            torn=N           half of the journal's N-th record is in its file
            phase=NAME       p.haul shows the phase
            before=, after=  MODULE:FUNCTION or MODULE:CLASS.METHOD is about to be called, or has returned
                             (with #N behind it: its N-th time; otherwise its first)
    ACTION  kill, int, term  the signal to this process itself
            raise=CODE       HaulFailed with the code
            wait=FIFO        say so on the FIFO, and go on when something, or the end, comes on FIFO.go
            run=COMMAND      a shell command, to its end
            clock=SECONDS    this process reads its clock (time.time) so much later, or earlier, from now on

An action is taken once, in the thread that comes to the point.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
SIGNALS = {"kill": signal.SIGKILL, "int": signal.SIGINT, "term": signal.SIGTERM}
FOLLOWING_STEPS = ("state", "push", "undone", "note")  # a journal's records that are not its head

Act = Callable[[], None]


def main(argv: list[str]) -> None:
    end = argv.index("--")
    words, program = iter(argv[:end]), argv[end + 1 :]
    sys.path[0] = str(PROJECT)
    for word in words:
        if word.startswith("set="):
            assign(word.removeprefix("set="))
        else:
            hook(word, action(next(words)))
    sys.argv = program
    runpy.run_path(str(Path(shutil.which(program[0]) or program[0]).resolve()), run_name="__main__")


def find(where: str) -> tuple[Any, str]:
    """The module or class, and the name in it."""
    module, _, path = where.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    getattr(owner, name)  # a name that is no longer there must not pass for a point that is never come to
    return owner, name


def assign(words: str) -> None:
    where, _, value = words.partition("=")
    owner, name = find(where)
    setattr(owner, name, type(getattr(owner, name))(value))


def action(word: str) -> Act:
    kind, _, value = word.partition("=")
    if kind in SIGNALS:
        return lambda: os.kill(os.getpid(), SIGNALS[kind])
    kinds = {"raise": fail, "wait": wait, "run": run, "clock": set_clock}
    return lambda: kinds[kind](value)


def fail(code: str) -> None:
    from phaul.errors import HaulFailed

    raise HaulFailed("This failure was asked for by a test.", code=code)


def wait(fifo: str) -> None:
    Path(fifo).write_text("here\n")
    with open(f"{fifo}.go", "rb", buffering=0) as word:
        word.read(1)


def run(command: str) -> None:
    subprocess.run(["sh", "-ec", command], check=True, stdin=subprocess.DEVNULL)


def set_clock(seconds: str) -> None:
    """The kernel's own is also that of all else on the machine, and namespaces have none (time_namespaces(7))."""
    before, shift = time.time, float(seconds)
    time.time = lambda: before() + shift


def hook(point: str, act: Act) -> None:
    """Arrange that the action is taken at the point."""
    point, _, number = point.partition("#")
    kind, _, value = point.partition("=")
    due = nth(act, int(number or 1))
    if kind == "before":
        wrap(value, before=lambda *_: due())
    elif kind == "after":
        wrap(value, after=lambda *_: due())
    elif kind == "phase":
        wrap("phaul.display:Plain.phase", after=lambda _, name: name == value and due())
    elif kind == "torn":
        wrap("phaul.journal:Journal._write", before=torn(int(value), act))
    elif kind in ("state", "push"):
        wrap("phaul.journal:Journal._write", after=lambda _, record: tells(record, kind, value) and due())
    else:
        raise SystemExit(f"at_point.py: there is no point {point!r}")


def torn(number: int, act: Act) -> Callable[[Any, dict[str, Any]], None]:
    """The action where half of that record is in the file; where it comes back, so does the file."""
    count = itertools.count(1)

    def before(journal: Any, record: dict[str, Any]) -> None:
        if next(count) != number:
            return
        data = json.dumps(record).encode() + b"\n"
        whole = os.fstat(journal._fd).st_size
        os.write(journal._fd, data[: len(data) // 2])
        os.fsync(journal._fd)
        act()
        os.ftruncate(journal._fd, whole)

    return before


def nth(act: Act, number: int) -> Act:
    count = itertools.count(1)

    def due() -> None:
        if next(count) == number:
            act()

    return due


def tells(record: dict[str, Any], kind: str, value: str) -> bool:
    """Whether the journal's record is of that state, or of an undo step of that kind."""
    if kind == "push":
        return "push" in record and record["kind"] == value
    state = record.get("state") if any(word in record for word in FOLLOWING_STEPS) else "begun"
    return bool(state == value)


def wrap(where: str, *, before: Callable[..., Any] | None = None, after: Callable[..., Any] | None = None) -> None:
    """Have these called before and after the function, with its positional arguments."""
    owner, name = find(where)
    function = getattr(owner, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if before:
            before(*args)
        result = function(*args, **kwargs)
        if after:
            after(*args)
        return result

    static = inspect.isclass(owner) and isinstance(inspect.getattr_static(owner, name), staticmethod)
    setattr(owner, name, staticmethod(wrapper) if static else wrapper)


if __name__ == "__main__":
    main(sys.argv[1:])
