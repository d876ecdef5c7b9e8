"""The hand-over's promises hold in every state that it can come to, and the code does what the model says."""

from __future__ import annotations

import dataclasses

import pytest
from handover_search import Explored, search
from handover_state import SOUND, Rules

from phaul import journal

FAULTS = 3


@pytest.fixture(scope="module")
def explored() -> Explored:
    return search(faults=FAULTS)


def test_every_state_keeps_what_is_promised_and_leads_to_a_good_end(explored: Explored) -> None:
    assert explored.wrong == "", "\n".join(explored.path)
    assert explored.states > 10_000


def test_its_journals_go_where_those_of_the_code_may_go(explored: Explored) -> None:
    """A move that the one has and the other has not is a mistake in one of them."""
    allowed = {
        (side, before, after)
        for side, table in journal.TRANSITIONS.items()
        for before, follow in table.items()
        for after in follow
    }
    assert {move for move in explored.moves if move[1]} == allowed
    assert {move for move in explored.moves if not move[1]} == {("target", "", "begun")}


@pytest.mark.parametrize(
    ("left_out", "found"),
    [
        ("thaw_needs_word", {"thawed after COMMIT without the target's word"}),
        ("commit_first", {"two copies run"}),
        ("release_needs_held", {"thawed after COMMIT without the target's word"}),
        ("running_first", {"what ran was undone"}),
        ("released_stays", {"what ran was undone"}),
        ("gone_first", {"given up, and a copy is there"}),
        ("end_needs_running", {"both copies are gone"}),
        ("end_needs_memory", {"it waits for memory that is gone"}),
        ("kept", {"nothing leads on from here", "thawed after COMMIT without the target's word"}),
        ("recovers", {"both copies are gone"}),
        ("resolves", {"nothing leads on from here"}),
        ("end_first", {"both copies are gone", "what ran was undone", "it waits for memory that is gone"}),
        ("lost_is_told", {"both copies are gone"}),
    ],
)
def test_what_is_left_out_is_found(left_out: str, found: set[str]) -> None:
    """A search that finds nothing proves something only if it would find something."""
    rules = dataclasses.replace(SOUND, **{left_out: False})
    explored = search(rules, faults=FAULTS - 1)
    assert explored.wrong in found, explored.path


def test_all_that_can_be_left_out_is_tried() -> None:
    tried = {
        mark.args[1][at][0] for mark in test_what_is_left_out_is_found.pytestmark for at in range(len(mark.args[1]))
    }
    assert tried == {field.name for field in dataclasses.fields(Rules)} - {"force"}


def test_force_makes_two_run_where_the_operator_is_wrong() -> None:
    explored = search(Rules(force=True), faults=FAULTS)
    assert explored.wrong in ("two copies run", "thawed after COMMIT without the target's word")
    assert "force" in explored.path


def test_a_good_end_is_reached_without_faults() -> None:
    explored = search(faults=0)
    assert explored.wrong == "" and {"S:done", "T:done"} <= explored.names
