"""What is seen of a haul: on a terminal, and by a program."""

from __future__ import annotations

import re

import pytest
from faults import NAME, Scene, ended, goes_on
from hauling import haul, state
from lab import Host, workloads
from objects import objects, of_type
from terminal import Terminal

PHASES = ["check", "prepare", "sync", "pre-copy", "freeze", "restore", "memory", "release", "finish"]


@pytest.mark.parametrize("columns", [80, 120])
def test_a_haul_on_a_terminal(a: Host, b: Host, columns: int) -> None:
    """32 MiB at 8 MiB a second, of which one changes all the time."""
    workloads.memhog(a, "hog", mib=32, hot_mib=1)
    with Terminal(a, "p.haul", "docker", "hog", b.ip, "--bandwidth", "8M", columns=columns) as terminal:
        assert terminal.ended() == 0, terminal.picture()
    first = terminal.shows(r"^pre-copy .* round 1 +\S+ +\d+%$\n.* MiB/s")
    moving = first.splitlines()[-3:]
    assert re.match(r"pre-copy +\d+\.\d s +round 1 +[━╸╺]+ +\d+%$", moving[0]), first
    assert re.match(r" +sent [\d.]+ \w+  [\d.]+ MiB/s  left [\d.]+ MiB, \d+ s$", moving[1]), first
    whole = rf" +hog to {re.escape(b.ip)} +[\d.]+ s, [\d.]+ \w+  downtime about [\d.]+ s +Ctrl-C cancels$"
    assert re.match(whole, moving[2]), first
    assert len(moving[2]) == columns
    terminal.shows(r"^pre-copy .* round \d\n +sent .+  changing [\d.]+ MiB/s$")
    last = terminal.picture()
    assert "Ctrl-C" not in last and "━" not in last
    assert re.findall(r"^(\S+) +[\d.]+ s", last, re.MULTILINE) == PHASES, last
    assert re.search(r"^Downtime \d+ ms, total [\d.]+ s", last, re.MULTILINE), last


def test_while_it_is_frozen_and_after(a: Host, b: Host) -> None:
    """What of 32 MiB has not come within half a second follows after the release."""
    workloads.memhog(a, "hog", mib=32)
    words = ("--bandwidth", "8M", "--mode", "stopcopy", "--max-downtime", "1500")
    with Terminal(a, "p.haul", "docker", "hog", b.ip, *words, columns=80) as terminal:
        assert terminal.ended() == 0, terminal.picture()
    terminal.shows(r"^memory .*%\n.*left [\d.]+ MiB, \d s\n.*  frozen \d\.\d s of about 1\.5 s +Ctrl-C cancels$")
    terminal.shows(r"^post-copy .*%\n.*left [\d.]+ MiB, \d s\n.*  downtime [\d.]+ s +too late to cancel$")


def test_a_haul_for_programs(a: Host, b: Host) -> None:
    workloads.memhog(a, "hog", mib=32, hot_mib=1)
    done = haul(a, "docker", "hog", b.ip, "--json", "--bandwidth", "8M")
    found = objects(done.out)
    assert found[0] == {**found[0], "type": "haul", "haul_type": "docker", "subject": "hog", "target": b.ip}
    begun, over = ([one["phase"] for one in of_type(found, kind)] for kind in ("phase", "phase-done"))
    assert begun == over == PHASES
    moving = [one for one in of_type(found, "progress") if one["phase"] == "pre-copy"]
    assert len(moving) > 3 and moving[0]["round"] == 1
    assert [one["sent"] for one in moving] == sorted(one["sent"] for one in moving)
    assert moving[0]["goal"] > 32 << 20 and 4 << 20 < moving[3]["rate"] < 16 << 20
    assert of_type(found, "choice")[0]["memory"] == moving[0]["goal"]
    assert [one["round"] for one in of_type(found, "round")][:2] == [1, 2]
    last = found[-1]
    assert last["type"] == "summary" and last["sent"] == sum(last["by_kind"].values()) > 32 << 20
    assert 0 < last["downtime"] < last["total"]
    assert state(b, "hog") == "running"


def test_what_fails_for_programs(scene: Scene) -> None:
    with scene.serve():
        with scene.begun("state=frozen", "term", more=("--json",)) as hauling:
            done = ended(hauling)
        found = objects(done.out)
        assert done.code == 9 and [one["code"] for one in found if one["type"] == "error"] == ["cancelled"]
        assert found[-1]["status"] == 9 and found[-1]["sentence"] == f"Cancelled by SIGTERM. {NAME} runs on here."
        goes_on(scene.a, NAME)
        scene.moves_now()


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        (("docker", "nobody", "10.0.0.2"), "no-such-container", 3),
        (("docker", "nobody", "10.0.0.2:5"), "bad-address", 2),
        (("docker", "nobody"), "usage", 2),
        (("ship", "nobody"), "unknown-type", 2),
    ],
)
def test_what_is_refused_for_programs(a: Host, words: tuple[str, ...], code: str, status: int) -> None:
    done = haul(a, *words, "--json", check=False)
    found = objects(done.out)
    assert (done.code, found[-1]["code"], found[-1]["status"]) == (status, code, status), done
    assert len(found) == 1


def test_blockers_for_programs(a: Host, b: Host) -> None:
    workloads.counter(a, "web", "--privileged")
    done = haul(a, "docker", "web", b.ip, "--json", check=False)
    (error,) = of_type(objects(done.out), "error")
    assert error["blockers"] and error["blockers"][0]["code"] == error["code"]
    assert error["sentence"] == "\n".join(blocker["sentence"] for blocker in error["blockers"])
