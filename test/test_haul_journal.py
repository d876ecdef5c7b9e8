"""Wherever in the writing of its journals a haul is broken off: one copy runs, all is settled, nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import journal_writes
import order_trace
import pytest
from faults import (
    CLEAN_S,
    JOURNALS,
    NAME,
    NETWORK,
    STALE_SOCKET,
    VOLUME,
    Halt,
    Scene,
    all_settled,
    at_point,
    ended,
    journals,
    kill_guards,
    of_service,
)
from hauling import left, settled, wait_for
from journal_kinds import kinds
from journal_writes import BOTH, HOSTS, MODES, Case
from lab import Done, Lab, images
from lab.service import Service, child_of

from phaul import journal

# A p.haul that finds out soon that nobody answers, and does not ask for long.
HASTY = ("set=phaul.link:DEAD_AFTER_MS=2000", "set=phaul.resolve:PATIENCE_SECONDS=0.5")
# How a haul may end, by the two journals; the target may have none.
ENDS = {("done", "done"), ("undone", "undone"), ("undone", ""), ("", "")}
EVERY = list(journal_writes.cases(journal_writes.known()))
SAMPLE = journal_writes.sample(EVERY)

Bare = dict[str, object]


@pytest.fixture(autouse=True)
def no_others(request: pytest.FixtureRequest) -> None:
    """No journals but the test's own, where earlier hauls' are kept; and the image is at the target always."""
    if "scene" in request.fixturenames:
        for host in request.getfixturevalue("clean_lab").hosts:
            images.load(host, "busybox")
            host.run("sh", "-c", f"rm -f {JOURNALS}/*")


@pytest.fixture
def bare(paired: Lab, clean_lab: Lab) -> Bare:
    """What the hosts hold before there is a container."""
    return {host.name: settled(host) for host in clean_lab.hosts}


def written(scene: Scene) -> dict[str, bytes]:
    """The journal of each side; there is but one."""
    return {
        side: path.read_bytes()
        for side, name in HOSTS.items()
        for path in scene.lab.host(name).path(JOURNALS).glob(f"*.{side}")
    }


@pytest.mark.parametrize("mode", MODES)
def test_the_known_records_are_those_that_a_haul_writes(scene: Scene, mode: str) -> None:
    with scene.serve(), scene.begun(more=("--mode", mode)) as hauling:
        assert ended(hauling).code == 0
        scene.moved()
    found = {side: kinds(text) for side, text in written(scene).items()}
    if os.environ.get("PHAUL_WRITES") == "new":
        journal_writes.know(mode, found)
    assert journal_writes.known().get(mode) == found


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=str(case), marks=[] if case in SAMPLE else [pytest.mark.long]) for case in EVERY]
)
def test_broken_off_at(bare: Bare, scene: Scene, case: Case) -> None:
    break_both(scene, case) if case.killed == BOTH else break_one(scene, case)
    if case.order == "source-first":
        resolve(scene)
    with scene.serve() as service:
        wait_for(lambda: resolve(scene) is None, "the source to have nothing left to settle", CLEAN_S)
        for host in scene.lab.hosts:
            wait_for(lambda host=host: all_settled(host), f"the settling of the hauls of {host.name}", CLEAN_S)
        came_to = tuple("".join(journals(scene.lab.host(name)).values()) for name in HOSTS.values())
        assert came_to in ENDS
        if came_to[1] != "done":
            scene.stays(service)
            return
        scene.moved()
        nothing_else(scene, bare, service)


def break_one(scene: Scene, case: Case) -> None:
    """The one side's program is killed there, and the other one finds out."""
    words, more = (case.point, "kill"), ("--mode", case.mode)
    here, there = (words, ()) if case.side == "source" else ((), words)
    with scene.serve(*there) as service, scene.begun(*HASTY, *here, more=more) as hauling:
        if case.side == "target":
            service.process.wait(CLEAN_S)
        again = case.side == "target" and case.order == "target-first"
        with scene.serve() if again else contextlib.nullcontext():
            done = ended(hauling)
    assert "Traceback" not in done.err, done
    assert done.code in ({-signal.SIGKILL} if here else {0, 4, 7, 8}), done


def break_both(scene: Scene, case: Case) -> None:
    """Both programs and their guards, at one moment: as a power cut, but for the tasks."""
    with Halt(scene.lab.host(HOSTS[case.side])) as halt:
        words, more = (case.point, halt.word), ("--mode", case.mode)
        here, there = (words, ()) if case.side == "source" else ((), words)
        with scene.serve(*there) as service, scene.begun(*here, more=more) as hauling:
            halt.reached(hauling if here else service.process)
            kill_both(scene, service, hauling)


def kill_both(scene: Scene, service: Service, hauling: subprocess.Popen[bytes]) -> None:
    pids = [service.pid, child_of(hauling)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for host in scene.lab.hosts:
        with contextlib.suppress(AssertionError):  # p.haul has none before its journal has begun
            kill_guards(host)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for process in (service.process, hauling):
        process.wait(CLEAN_S)


def resolve(scene: Scene) -> Done | None:
    """How p.haul --resolve ended; None where nothing is left to it."""
    done = scene.a.run(*at_point("p.haul", HASTY), "--resolve", NAME, check=False)
    verdict = done.err.splitlines()[-1].removeprefix("p.haul: ") if done.err else ""
    if verdict == "[nothing-to-resolve] exit status 3":
        return None
    assert done.code == 0 or verdict in ("[haul-busy] exit status 3", "[in-doubt] exit status 8"), done
    return done


def nothing_else(scene: Scene, bare: Bare, service: Service) -> None:
    """Nothing has come to the hosts but the container and what it was moved with."""
    for host in scene.lab.hosts:
        host.docker("rm", "-fv", NAME)
        host.docker("network", "rm", NETWORK)
        host.docker("volume", "rm", VOLUME)
        but = of_service(service) if host == scene.b else ()
        changes = left(host, bare[host.name], timeout=CLEAN_S, but=(STALE_SOCKET, *but))
        assert not changes, f"left on {host.name}: {changes}"


def test_every_beginning_of_a_journal_is_read_as_its_last_whole_record_says(scene: Scene, tmp_path: Path) -> None:
    with scene.serve():
        scene.moves_now()
    for side, whole in written(scene).items():
        path, said = tmp_path / f"20260102-030405-00000000.{side}", ("begun",)
        ends = [match.end() for match in re.finditer(rb"\n", whole)]
        for length in range(len(whole) + 1):
            path.write_bytes(whole[:length])
            record = journal.read(path)
            if length in ends:
                line = json.loads(whole[:length].splitlines()[-1])
                said = (line.get("state", said[0]), record.head, record.steps)
            assert (record.state, record.damaged) == (said[0], 0)
            assert (record.head, record.steps) == (said[1:] or ({}, ())), length


@pytest.mark.parametrize("mode", MODES)
def test_each_record_is_on_disk_before_its_act(scene: Scene, mode: str) -> None:
    with Service(scene.b, command=order_trace.command("p.haul-service")):
        words = (*order_trace.command("p.haul"), "docker", NAME, scene.b.ip, "--mode", mode)
        scene.a.run(*words, timeout=150)
        scene.moved()
    for program, side in (("p.haul", "source"), ("p.haul-service", "target")):
        found = order_trace.events(scene.lab.host(HOSTS[side]).path(f"{order_trace.PLACE}-{program}"))
        assert order_trace.violations(found, side) == []
        done = {event["act"] for event in found if "act" in event}
        assert done >= order_trace.NEEDS[side].keys(), order_trace.NEEDS[side].keys() - done


def test_an_act_before_its_record_is_found() -> None:
    pushed, act = {"record": "push.pause"}, {"act": "Engine.pause"}
    assert order_trace.violations([pushed, act], "source") == []
    assert order_trace.violations([act, pushed], "source") == ["Engine.pause, without push.pause"]
    unknown = [{"act": "Engine.remove"}]
    assert order_trace.violations(unknown, "source") == ["Engine.remove, without any record that announces it"]
