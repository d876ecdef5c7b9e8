"""The crash matrix: it leaves nothing out without a reason, and a sample of it in which everything occurs holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from matrix import cells, results
from matrix.__main__ import OUT
from matrix.cells import Cell
from matrix.ground import Ground
from matrix.injections import FAULTS
from matrix.phases import MODES, PHASES
from matrix.results import Record, Results

README = Path(__file__).resolve().parent.parent / "README.md"
SEED = 1
# Cells that did not hold once.
FIXED = (
    "restore / p.haul killed / postcopy",
    "restore / CRIU killed / auto",
    "restore / target engine killed / postcopy",
    "release written / target engine killed / auto",
    "sync / target memory limit / stopcopy",
    "dump / CRIU killed / stopcopy",
    "post-copy / target engine killed / postcopy",
)
SAMPLE = cells.covering(cells.shuffled(cells.every(), SEED), FIXED)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with Ground("test-matrix", tmp_path_factory.mktemp("failed")) as found:
        yield found


@pytest.mark.parametrize("cell", SAMPLE, ids=lambda cell: cell.name)
def test_it_holds(ground: Ground, cell: Cell) -> None:
    record = ground.try_(cell)
    assert record.held, f"{record.line}\n{ground.evidence(cell)}"


@pytest.mark.parametrize("some", [cells.every(), SAMPLE], ids=["all", "sample"])
def test_everything_occurs(some: list[Cell]) -> None:
    assert {cell.phase.name for cell in some} == {phase.name for phase in PHASES}
    assert {cell.fault.name for cell in some} == {fault.name for fault in FAULTS}
    assert {cell.mode.name for cell in some} == {mode.name for mode in MODES}


def test_every_cell_is_there_once_or_left_out_for_a_reason() -> None:
    names = [cell.name for cell in cells.every()]
    assert len(set(names)) == len(names)
    assert len(names) + sum(cells.left_out().values()) == len(PHASES) * len(FAULTS) * len(MODES)
    assert all(re.fullmatch(r"\S.{10,}", why) for why in cells.left_out())


def test_each_fault_breaks_more_than_a_few_phases() -> None:
    for fault in FAULTS:
        assert len({cell.phase.name for cell in cells.every() if cell.fault is fault}) >= 4, fault.name


def test_the_fixed_ones_are_cells() -> None:
    assert set(FIXED) <= {cell.name for cell in cells.every()}
    assert set(FIXED) <= {cell.name for cell in SAMPLE}


def test_a_sample_is_the_same_each_time_and_grows() -> None:
    every = cells.every()
    assert cells.shuffled(every, 7) == cells.shuffled(every, 7) != cells.shuffled(every, 8)
    assert sorted(cell.name for cell in cells.shuffled(every, 7)) == sorted(cell.name for cell in every)


def test_what_is_chosen() -> None:
    names = {cell.name for cell in cells.chosen(cells.every(), ["COMMIT", "link cut", "auto", "stopcopy"])}
    assert names == {"COMMIT / link cut / auto", "COMMIT / link cut / stopcopy"}


def record(cell: Cell, *, held: bool = True, seconds: float = 1.0) -> Record:
    return Record(cell.phase.name, cell.fault.name, cell.mode.name, held, "moved", "", 0, "", seconds, "")


def test_the_last_word_on_a_cell_counts(tmp_path: Path) -> None:
    lines = tmp_path / "cells.jsonl"
    assert results.read(lines) == {}
    for one in (record(SAMPLE[0], held=False), record(SAMPLE[1]), record(SAMPLE[0])):
        results.append(lines, one)
    found = results.read(lines)
    assert [one.held for one in found.values()] == [True, True]
    assert found.keys() == {SAMPLE[0].name, SAMPLE[1].name}


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = Results({"date": "today"}, 9, {"no reason": 2}, (record(SAMPLE[0]), record(SAMPLE[1], held=False)))
    found.save(tmp_path / "result.json")
    assert Results.load(tmp_path / "result.json") == found
    assert found.closing == "2 cells tried, 1 held"
    assert "What did not hold" in results.markdown(found)
    before = results.part(Results({}, 0, {}, ()))
    assert results.into(f"before\n\n{before}\n\nafter", found) == f"before\n\n{results.part(found)}\n\nafter"


def test_readme_has_the_figures_of_the_last_run() -> None:
    found = Results.load(OUT / "result.json")
    assert results.part(found) in README.read_text()
