"""The cells of the matrix: the product of phases, faults and modes, less what cannot be."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .injections import FAULTS, Fault
from .phases import MODES, PHASES, STOPCOPY, Mode, Phase

BEFORE_THE_MEMORY = "restore"


@dataclass(frozen=True)
class Cell:
    phase: Phase
    fault: Fault
    mode: Mode

    @property
    def name(self) -> str:
        return f"{self.phase.name} / {self.fault.name} / {self.mode.name}"


def _index(phase: str) -> int:
    return [one.name for one in PHASES].index(phase)


def _meets_the_limit_held(cell: Cell) -> bool:
    return cell.mode.name == STOPCOPY and _index(cell.phase.name) <= _index(BEFORE_THE_MEMORY)


# Who rules a cell out, and why.
Rule = tuple[Callable[[Cell], bool], Callable[[Cell], str]]
RULES: tuple[Rule, ...] = (
    (lambda cell: cell.mode.name not in cell.phase.modes, lambda cell: f"{cell.mode.name}: {cell.phase.but}"),
    (
        lambda cell: cell.fault.name == "CRIU killed" and not cell.phase.criu,
        lambda _: "no CRIU lives in that phase",
    ),
    (
        lambda cell: cell.fault.name == "target memory limit" and not _meets_the_limit_held(cell),
        lambda _: "its memory is there already, or put in place when it runs: the kernel ends it then, haul or not",
    ),
)


def product() -> list[Cell]:
    """All that could be named."""
    return [Cell(*parts) for parts in itertools.product(PHASES, FAULTS, MODES)]


def reason(cell: Cell) -> str:
    """Why there can be no such cell; "" where there is one."""
    return next((why(cell) for rules_out, why in RULES if rules_out(cell)), "")


def every() -> list[Cell]:
    """The cells that are tried."""
    return [cell for cell in product() if not reason(cell)]


def left_out() -> dict[str, int]:
    """How many cells each reason has ruled out."""
    found: dict[str, int] = {}
    for cell in product():
        if why := reason(cell):
            found[why] = found.get(why, 0) + 1
    return found


def chosen(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """Those of the named phases, faults and modes; all of a kind where none of that kind is named."""

    def wanted(name: str, kind: Sequence[Phase | Fault | Mode]) -> bool:
        named = {one.name for one in kind} & set(only)
        return not named or name in named

    return [
        cell
        for cell in cells
        if wanted(cell.phase.name, PHASES) and wanted(cell.fault.name, FAULTS) and wanted(cell.mode.name, MODES)
    ]


def shuffled(cells: Sequence[Cell], seed: int) -> list[Cell]:
    """The same for the same seed: the first of them are a sample of all."""
    return random.Random(seed).sample(list(cells), len(cells))


def covering(cells: Sequence[Cell], fixed: Sequence[str] = ()) -> list[Cell]:
    """Few of them in which every phase, fault and mode occurs, with those of the `fixed` names first."""
    found = [cell for cell in cells if cell.name in fixed]
    rest = [cell for cell in cells if cell.name not in fixed]
    while True:
        seen = {part.name for cell in found for part in (cell.phase, cell.fault, cell.mode)}
        best = max(rest, key=lambda cell: len({cell.phase.name, cell.fault.name, cell.mode.name} - seen), default=None)
        if best is None or {best.phase.name, best.fault.name, best.mode.name} <= seen:
            return found
        found.append(best)
        rest.remove(best)
