"""Several hauls at once, and several in a row: all arrive, and nothing is left that was not there before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import at_point
from lab import Lab
from load import bed, crowd, idle, report, rounds
from load.rounds import Rounds


@pytest.fixture
def both_ways(paired: Lab, clean_lab: Lab) -> Iterator[bed.Bed]:
    with bed.made_of(paired, paired=True) as made:
        yield made


def test_four_at_once(both_ways: bed.Bed) -> None:
    seen = crowd.move(both_ways, 4, 2)
    assert len(seen.downtimes) == 4 and seen.seconds > max(seen.downtimes) > 0


@pytest.mark.timeout(300)
def test_six_in_a_row(both_ways: bed.Bed) -> None:
    seen = rounds.run(both_ways, 6, 2)
    assert (seen.hauls, sorted(seen.looks)) == (6, [2, 4, 6])
    assert [line for line in seen.grows(since=2) if "service RSS" not in line and "service PSS" not in line] == []
    logs = [figures["a"]["logs"] for figures in seen.looks.values()]
    assert logs == sorted(set(logs)), "what is written down of each haul is not seen"


def test_hauls_that_fail_leave_no_descriptor_open(both_ways: bed.Bed) -> None:
    """Wherever they fail; the first has the service load what it needs."""
    bed.counters(both_ways.a, "stays")
    held = []
    for point in (
        "before=phaul.iters:Verify",
        "before=phaul.iters:Restore",
        "phase=freeze",
        "before=phaul.iters:Poise",
    ) * 2:
        command = at_point("p.haul", (point, "raise=asked-for"))
        done = both_ways.a.run(*command, "docker", "stays", both_ways.b.ip, check=False)
        assert (done.code, "[asked-for]" in done.err) == (7, True), done
        held.append(rounds.settled(both_ways, "b")["service descriptors"])
    assert held[0] == held[4] == held[-1] == min(held) == max(held), held


def test_an_idle_service_is_watched(both_ways: bed.Bed) -> None:
    seen = idle.watch(both_ways, 1)
    assert seen.service > seen.guard > 0 and seen.cpu < 1 and seen.switches >= 0


def looks(**figures: list[float]) -> Rounds:
    """Of host a, after 20, 40, … hauls."""
    count = len(next(iter(figures.values())))
    return Rounds(
        looks={20 * at + 20: {"a": {name: found[at] for name, found in figures.items()}} for at in range(count)}
    )


def test_what_grows_is_found() -> None:
    mib = float(1 << 20)
    seen = looks(
        mounts=[3, 4, 5, 6, 7],
        processes=[9, 9, 8, 9, 9],
        **{"service PSS": [30 * mib, 31 * mib, 32 * mib, 33 * mib, 34 * mib], "service RSS": [40 * mib] * 5},
        logs=[1, 2, 3, 4, 5],
    )
    assert [line.partition(" by ")[0] for line in seen.grows(since=40)] == ["mounts of a", "service PSS of a"]
    assert seen.growth("a", "mounts", 40) == 3
    assert rounds.slope([(1, 5.0)]) == 0


def test_what_is_told(tmp_path: Path) -> None:
    names = dict.fromkeys(report.SHOWN, 1.0)
    rows = Rounds(hauls=2, seconds=1.0, numbers=7, looks={1: {"a": names, "b": names}, 2: {"a": names, "b": names}})
    load = report.Load(
        machine={"Linux": "6"},
        crowd=crowd.Crowd(2, 1, 3.0, (0.1, 0.3)),
        rounds=rows,
        idle=idle.Idle(60, 0.02, 24, 1 << 20, 1 << 19),
        since=1,
    )
    report.save(load, tmp_path)
    text = (tmp_path / "result.md").read_text()
    assert "nothing grows" in text and "0.20 s (median; 0.10 to 0.30 s)" in text and "0.50 MiB" in text
    assert json.loads((tmp_path / "result.json").read_text())["rounds"]["numbers"] == 7
