"""Cells tried by several processes at the same time, each with two hosts of its own."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lab import LabError

from .cells import Cell
from .ground import Ground
from .results import Record

CELL_S = 900
END_S = 60


def tried(cells: Sequence[Cell], *, jobs: int, out: Path) -> Iterator[tuple[Record, dict[str, str]]]:
    """Each record as it comes, and what machine it is from. Raises LabError where a process ends before its time.

    The processes are ended with the iterator.
    """
    context = multiprocessing.get_context("fork")
    work, done = context.Queue(), context.Queue()
    for number in range(len(cells)):
        work.put(number)
    processes = [context.Process(target=_work, args=(cells, work, done, f"matrix-{job}", out)) for job in range(jobs)]
    for process in processes:
        process.start()
    try:
        for _ in cells:
            yield _next(done, processes)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(END_S)


def _next(done: Any, processes: Sequence[Any]) -> tuple[Record, dict[str, str]]:
    try:
        record, machine = done.get(timeout=CELL_S)
    except queue.Empty:
        raise LabError("A cell takes for ever.") from None
    if record is None:
        raise LabError(machine)
    return record, machine


def _work(cells: Sequence[Cell], work: Any, done: Any, name: str, out: Path) -> None:
    signal.signal(signal.SIGTERM, _end)
    try:
        with Ground(name, out / "failed") as ground:
            while True:
                record = ground.try_(cells[work.get()])
                done.put((record, ground.machine))
    except LabError as error:
        done.put((None, str(error)))


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)
