"""The benchmark works: every way of moving the workload, and what it says follows from what it saw."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench import cases, measure, picture, profile, table, targets, ticks
from bench.results import Results, Sample
from lab import cgroups, claims

TEST = Path(__file__).parent


@contextlib.contextmanager
def bench(*words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "--quick", *words],
        env={**os.environ, "PYTHONPATH": str(TEST)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def nothing_is_left(pid: int) -> None:
    """Its lab's processes are all in cgroups of the lab."""
    name = f"bench-{pid}"
    assert not cgroups.of_instance(name)
    assert not (claims.STATE / name).exists()
    assert name not in Path("/proc/mounts").read_text()


def test_every_case_and_way_once(tmp_path: Path) -> None:
    with bench("--out", str(tmp_path)) as process:
        said, _ = process.communicate(timeout=170)
    assert process.returncode == 0, said
    saved = json.loads((tmp_path / "result.json").read_text())
    # A mode that these hosts cannot have is a cell of the table.
    failed = [sample["error"] for sample in saved["samples"] if sample["error"]]
    assert [error for error in failed if "is not possible here" not in error] == []
    assert {sample["case"] for sample in saved["samples"]} == {case.name for case in cases.QUICK}
    small = {sample["rival"] for sample in saved["samples"] if sample["case"] == "16m"}
    assert {name.split("-")[0] for name in small} == {"phaul", "criu", "runc", "script", "docker"}
    good = [sample for sample in saved["samples"] if not sample["error"]]
    assert all(0 < sample["downtime"] <= sample["total"] for sample in good)
    assert all(sample["wire"] >= sample["resident"] for sample in good if sample["rival"] != "criu")
    text = (tmp_path / "result.md").read_text()
    assert "## Targets" in text and "## Where the downtime goes" in text
    ElementTree.parse(tmp_path / "downtime.svg")
    nothing_is_left(process.pid)


def test_nothing_is_left_of_one_that_is_interrupted(tmp_path: Path) -> None:
    with bench("--only", "16m", "script", "--rounds", "50", "--out", str(tmp_path)) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "script" in line)
        assert " ms " in line
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    nothing_is_left(process.pid)


def record(number: int, when: float, *, checks: int = 0, errors: int = 0) -> ticks.Tick:
    return ticks.Tick(number, when, checks, errors)


def test_records_are_read_as_far_as_they_are_whole(tmp_path: Path) -> None:
    file = tmp_path / "ticks"
    pieces = [ticks.RECORD.pack(number, 10**9 + number * 10**6, 0, 0) for number in range(5)]
    file.write_bytes(b"".join(pieces) + pieces[0][:7])
    assert [tick.number for tick in ticks.read(file)] == [0, 1, 2, 3, 4]
    assert ticks.read(file, last=1) == [record(4, 1.004)]


def test_the_longest_gap() -> None:
    gap, until = ticks.gap([record(0, 1.0), record(1, 1.001), record(2, 1.5), record(3, 1.6)])
    assert (round(gap, 3), until) == (0.499, 1.5)


@pytest.mark.parametrize(
    "seen",
    [
        [record(0, 1.0), record(2, 1.1)],
        [record(0, 1.0), record(0, 1.1)],
        [record(0, 1.0), record(1, 1.1, errors=1)],
    ],
    ids=["lost", "repeated", "changed memory"],
)
def test_a_broken_haul_has_no_figures(seen: list[ticks.Tick]) -> None:
    with pytest.raises(ticks.Broken):
        ticks.check(seen)


def results(**downtimes: float) -> Results:
    """Samples of one round: "1g_docker" is Docker's with 1 GiB."""
    samples = []
    for name, downtime in downtimes.items():
        case, _, rival = name.lstrip("_").partition("_")
        rival = rival.replace("_", "-")
        samples.append(Sample(case, rival, 1, downtime=downtime, total=downtime, wire=103, resident=100))
    words = {case.name: case.words for case in cases.FULL}
    words.update({sample.rival: sample.rival for sample in samples})
    return Results(machine={"date": "today", "memory": "1 GiB"}, rounds=1, words=words, samples=samples)


def test_targets_are_met_or_missed_by_the_medians() -> None:
    measured = results(_16m_phaul_postcopy=0.2, _16m_criu=0.05, _16m_runc_lazy=0.1, _1g_phaul_auto=2.0, _1g_podman=3.0)
    met = {target.words: target.met for target in targets.all_of(measured)}
    assert met["post-copy, 16 MiB ÷ bare criu"] is True
    assert met["post-copy, 16 MiB ÷ bare runc lazy checkpoint + restore"] is False
    assert met["podman ÷ safe mode, 1 GiB"] is False
    assert met["post-copy, 4 GiB ÷ 16 MiB"] is None
    assert met["bytes on the wire ÷ resident memory, 1 GiB idle"] is True


def test_a_failed_sample_is_a_cell_and_no_figure() -> None:
    measured = results(_16m_phaul=0.5, _16m_criu=0.1)
    measured.samples[1].error = "it | broke"
    assert measured.downtime("16m", "criu") is None
    text = table.markdown(measured)
    assert "failed: it \\| broke" in text
    assert "criu" not in picture.svg(measured, cases.FULL)


def test_the_reason_is_the_line_that_says_why() -> None:
    assert measure.reason("a: p.haul docker x\np.haul: It cannot work.\np.haul: [x] exit status 3") == "It cannot work."
    assert measure.reason("(00.1) Error (criu/x.c:1): no\nended with 1").startswith("Error (criu/x.c:1)")
    assert measure.reason("first\nlast\n") == "last"


def test_accounts_add_up_to_the_gap() -> None:
    marks = [
        profile.Mark(0.1, "engine a: container pause", "freeze"),
        profile.Mark(0.5, "the workload runs", "release"),
    ]
    assert profile.by_account(marks) == {"freeze": 0.1, "release": 0.4}
    assert profile.account("a: mark: dump") == "dump"


def test_marks_are_read_from_the_logs(tmp_path: Path) -> None:
    log = tmp_path / "p.haul.log"
    log.write_text(
        "2026-01-02 03:04:05.250 DEBUG MainThread phaul.iters: mark: freeze\n"
        "2026-01-02 03:04:05.500 DEBUG MainThread phaul.docker: mark: runc at 1767323045.375\n"
        "a line of another kind\n"
    )
    assert profile.logged(log, "a") == [
        (1767323045.25, "a: mark: freeze"),
        (1767323045.375, "a: mark: runc at 1767323045.375"),
    ]
    assert profile.account("a: mark: runc at 1767323045.375") == "runc"


def test_criu_is_placed_by_its_logs_age_and_what_comes_after_it(tmp_path: Path) -> None:
    log = tmp_path / "restore.log"
    log.write_text("(00.000000) begins\n(00.010000) works\n(00.011000) ends\n")
    os.utime(log, (1000.0, 1000.0))
    begin, end = 999.9 - 0.011, 999.9
    found = [(round(when, 4), what) for when, what in sorted(profile.criu(tmp_path, 999.9))]
    assert found == [
        (round(begin, 4), "criu restore begins"),
        (round(begin + 0.01, 4), "criu restore: was at: begins"),
        (end, "criu restore ends"),
    ]


def test_names_in_the_picture_keep_their_distance() -> None:
    heights = sorted(picture.name_places({"a": 100.0, "b": 100.0, "c": 101.0}).values())
    assert all(later - earlier >= picture.SMALLEST_GAP for earlier, later in pairwise(heights))


def test_time_is_bounded() -> None:
    measured = results()
    going = measure.Round(None, measured, print)  # type: ignore[arg-type]
    assert not going.run(1, [(cases.QUICK[0], None)], channel_mib=1, until=time.monotonic() - 1)  # type: ignore[list-item]
    assert measured.samples == []
