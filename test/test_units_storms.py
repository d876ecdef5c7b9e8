"""Any changes to a tree in any order, before, between and after the passes over it."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import pytest
from tree_stage import Stage, differences, survey
from tree_storm import Storm, overlay

from phaul import fs_watch
from phaul.htype import Tree


def weather(work: Path, top: Path, seen: Path, seed: int) -> None:
    """Random changes before, between and after the live passes, and when the frozen one is poised."""
    storm = Storm(seen, seed)
    storm.blow(60)
    with contextlib.closing(storm), Stage(work, Tree(top, "volume", str(seen), seen)) as on:
        on.first()
        for _ in range(seed % 3):
            storm.blow(storm.random.randrange(12))
            on.again()
        storm.blow(storm.random.randrange(8))
        on.freeze(lambda: storm.blow(storm.random.randrange(12)))
        assert differences(survey(top), survey(on.there[0])) == [], storm.done[-40:]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_changes_arrives(tmp_path: Path, seed: int) -> None:
    (tmp_path / "here").mkdir()
    weather(tmp_path, tmp_path / "here", tmp_path / "here", seed)


@pytest.mark.parametrize("seed", range(100, 120))
def test_whatever_changes_through_an_overlay_arrives(tmp_path: Path, seed: int) -> None:
    with overlay(tmp_path, seed) as (upper, merged):
        weather(tmp_path, upper, merged, seed)


@pytest.mark.parametrize("seed", range(200, 210))
def test_whatever_changes_arrives_where_all_is_looked_at(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fs_watch, "MAX_NAMES", 2)
    with overlay(tmp_path, seed) as (upper, merged):
        weather(tmp_path, upper, merged, seed)


def test_most_changes_are_told_by_the_watch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "phaul.fs")
    for seed in range(6):
        work = tmp_path / str(seed)
        (work / "here").mkdir(parents=True)
        weather(work, work / "here", work / "here", 3 * seed)
    assert len([line for line in caplog.messages if line.startswith("all of ")]) < 6
