"""What became of each cell: kept as it comes, a line of JSON each, and told in tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import Done

from .cells import Cell
from .injections import FAULTS
from .phases import MODES, PHASES

CODE = re.compile(r"^p\.haul: \[([a-z-]+)\] exit status \d+$", re.MULTILINE)
PART = re.compile(r"^\d+ cells tried, \d+ held.*:\n\n\| what breaks(.+\n)+\|.+$", re.MULTILINE)
HEAD = "| what breaks, in each phase and mode | tried | held | it stayed | it moved | by `--resolve` |"


@dataclass(frozen=True)
class Record:
    """`status` and `code` are what p.haul ended with (negative: killed). Where it did not hold, `why` says so."""

    phase: str
    fault: str
    mode: str
    held: bool
    outcome: str
    command: str
    status: int
    code: str
    seconds: float
    why: str

    @classmethod
    def of(
        cls, cell: Cell, done: Done, seconds: float, *, outcome: str = "", command: str = "", why: str = ""
    ) -> Record:
        code = CODE.search(done.err)
        return cls(
            phase=cell.phase.name,
            fault=cell.fault.name,
            mode=cell.mode.name,
            held=not why,
            outcome=outcome,
            command=command,
            status=done.code,
            code=code[1] if code else "",
            seconds=round(seconds, 1),
            why=why,
        )

    @property
    def cell(self) -> str:
        return f"{self.phase} / {self.fault} / {self.mode}"

    @property
    def line(self) -> str:
        """For people."""
        how = f"{self.outcome}{' by ' + self.command if self.command else ''}" if self.held else f"NOT HELD: {self.why}"
        said = f"status {self.status}{' [' + self.code + ']' if self.code else ''}"
        return f"{self.cell}: {how} ({said}, {self.seconds:.0f} s)"


def append(path: Path, record: Record) -> None:
    with path.open("a") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def read(path: Path) -> dict[str, Record]:
    """By the cell's name; of one that was tried more than once the last."""
    if not path.exists():
        return {}
    records = [Record(**json.loads(line)) for line in path.read_text().splitlines()]
    return {record.cell: record for record in records}


@dataclass(frozen=True)
class Results:
    """Of a run, or of more that continued each other; `machine` describes where. `left_out` counts by reason."""

    machine: dict[str, str]
    cells: int
    left_out: dict[str, int]
    records: tuple[Record, ...]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        document = json.loads(path.read_text())
        return cls(**{**document, "records": tuple(Record(**record) for record in document["records"])})

    @property
    def held(self) -> int:
        return sum(record.held for record in self.records)

    @property
    def closing(self) -> str:
        return f"{len(self.records)} cells tried, {self.held} held"


def by_fault(results: Results) -> str:
    """A line for each fault, as README has it."""
    lines = [HEAD, "| --- | --- | --- | --- | --- | --- |"]
    for fault in FAULTS:
        mine = [record for record in results.records if record.fault == fault.name]
        lines.append(_row(f"{fault.name}: {fault.words}", mine))
    lines.append(_row(f"all, of {results.cells} cells", results.records))
    return "\n".join(lines)


def _row(name: str, records: Sequence[Record]) -> str:
    counts = [len(records), sum(r.held for r in records), *_outcomes(records), sum(bool(r.command) for r in records)]
    return f"| {name} | {' | '.join(map(str, counts))} |"


def _outcomes(records: Iterable[Record]) -> list[int]:
    held = [record.outcome for record in records if record.held]
    return [held.count("stayed"), held.count("moved")]


def by_phase(results: Results) -> str:
    """Phases by faults; each field has a letter for each mode."""
    cells = {record.cell: record for record in results.records}
    lines = [f"| | {' | '.join(fault.name for fault in FAULTS)} |", f"| --- |{' --- |' * len(FAULTS)}"]
    for phase in PHASES:
        fields = [" ".join(_letter(cells.get(f"{phase.name} / {f.name} / {m.name}")) for m in MODES) for f in FAULTS]
        lines.append(f"| {phase.name} | {' | '.join(fields)} |")
    return "\n".join(lines)


def _letter(record: Record | None) -> str:
    if record is None:
        return "-"
    if not record.held:
        return "**failed**"
    return {"stayed": "s", "moved": "m"}[record.outcome] + ("!" if record.command else "")


def markdown(results: Results) -> str:
    """All of it."""
    modes = ", ".join(mode.name for mode in MODES)
    parts = [
        "# What becomes of a container whose haul is broken",
        f"{results.closing}, of {results.cells}. " + ", ".join(f"{k}: {v}" for k, v in results.machine.items()) + ".",
        by_fault(results),
        f"By phase; in each field the modes {modes}: s it stayed, m it moved, ! by the one command that p.haul named, "
        "- there is no such cell, or it was not tried.",
        by_phase(results),
        "Phases, by where the haul stood still:\n\n"
        + _listed(PHASES, lambda p: f"{p.name} (at the {p.program}): {p.words}"),
        "There are no cells, of "
        + str(results.cells + sum(results.left_out.values()))
        + ", where:\n\n"
        + _listed(results.left_out.items(), lambda item: f"{item[0]} ({item[1]})"),
    ]
    if failed := [record for record in results.records if not record.held]:
        parts.append("What did not hold:\n\n" + _listed(failed, lambda record: record.line))
    return "\n\n".join(parts) + "\n"


def _listed(things: Iterable[object], words: Callable[..., str]) -> str:
    return "\n".join(f"- {' '.join(words(thing).split())}" for thing in things)


def part(results: Results) -> str:
    """What README has of it."""
    return f"{results.closing} ({_when(results)}):\n\n{by_fault(results)}"


def _when(results: Results) -> str:
    return ", ".join(results.machine.get(name, "") for name in ("date", "kernel")) or "nothing is known of the machine"


def into(readme: str, results: Results) -> str:
    """README with its part made anew. Raises ValueError where it has none."""
    old = PART.search(readme)
    if not old:
        raise ValueError("README has no table of the crash matrix.")
    return readme[: old.start()] + part(results) + readme[old.end() :]
