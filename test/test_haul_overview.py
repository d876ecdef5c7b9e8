"""What other terminals can see of hauls, and do to them: status, cancel, history."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from faults import NAME, QUICK, Halt, Scene, ended, failed, kill_guards, runs
from hauling import haul, refused, wait_for
from lab import Host, workloads
from objects import objects, of_type

HASTY = ("set=phaul.link:DEAD_AFTER_MS=2000", "set=phaul.resolve:PATIENCE_SECONDS=0.5")


def status(host: Host, *words: str) -> list[dict[str, Any]]:
    return of_type(objects(haul(host, "status", "--json", *words).out), "status")


def test_nothing_is_under_way(scene: Scene) -> None:
    done = haul(scene.a, "status")
    assert done.out == "No haul is under way on this host, and none is in doubt.\n"
    assert haul(scene.a, "status", "--json").out == ""
    refused(haul(scene.a, "status", NAME, check=False), "no-haul")
    refused(haul(scene.a, "cancel", NAME, check=False), "no-haul")


def test_status_on_both_hosts(scene: Scene) -> None:
    with scene.serve(), Halt(scene.a) as halt, scene.begun("before=phaul.iters:Verify", halt.word) as hauling:
        halt.reached(hauling)
        (seen,) = status(scene.a)
        assert seen == {**seen, "subject": NAME, "direction": "to", "peer": scene.b.ip, "state": "frozen"}
        assert seen["standing"] == "under-way" and abs(seen["begun"] - time.time()) < 60
        progress = seen["progress"]
        assert progress["phase"] == "restore" and progress["sent"] > 0 and progress["downtime"] > 0
        text = haul(scene.a, "status", NAME).out
        assert re.fullmatch(
            rf"{NAME} to {scene.b.ip}  \(docker, since [-\d]+ [:\d]+, \d+ s\)\n"
            r"   restore \d+\.\d s  sent [\d.]+ \w+.*  frozen [\d.]+ s of about [\d.]+ s\n",
            text,
        ), text
        assert [one["haul"] for one in status(scene.a, scene.id[:8])] == [seen["haul"]]
        refused(haul(scene.a, "status", "another", check=False), "no-haul")
        (there,) = status(scene.b)
        assert there == {**there, "subject": NAME, "direction": "from", "state": "held", "standing": "under-way"}
        assert "restored here, and held frozen" in haul(scene.b, "status").out
        halt.go()
        assert ended(hauling).code == 0
        wait_for(lambda: not status(scene.b), "the end of the haul on b")
        assert not status(scene.a)
        scene.moved()


def test_a_haul_whose_p_haul_is_dead(scene: Scene) -> None:
    with scene.serve() as service, Halt(scene.a) as halt, scene.begun("state=frozen", halt.word) as hauling:
        halt.reached(hauling)
        kill_guards(scene.a)
        hauling.kill()
        hauling.wait()
        wait_for(lambda: status(scene.a)[0]["standing"] == "dead", "the haul's being known as dead")
        assert f"p.haul --resolve {NAME} takes it back" in haul(scene.a, "status").out
        refused(haul(scene.a, "cancel", NAME, check=False), "unsettled")
        haul(scene.a, "--resolve", NAME)
        assert not status(scene.a)
        scene.stays(service)


def test_a_haul_in_doubt(scene: Scene) -> None:
    words = (*HASTY, "before=phaul.iters:Release")
    with scene.serve(*QUICK) as service, Halt(scene.a) as halt, scene.begun(*words, halt.word) as hauling:
        halt.reached(hauling)
        service.stop()
        halt.go()
        assert ended(hauling).code == 8
    (seen,) = status(scene.a)
    assert (seen["standing"], seen["state"]) == ("in-doubt", "committed")
    assert f"p.haul --resolve {NAME} decides" in haul(scene.a, "status").out
    refused(haul(scene.a, "cancel", NAME, check=False), "unsettled")
    with scene.serve():
        haul(scene.a, "--resolve", NAME)
    assert not status(scene.a)
    scene.stays()


@pytest.mark.parametrize("phase", ["prepare", "sync", "pre-copy", "freeze", "restore", "memory"])
def test_cancel_from_another_terminal(scene: Scene, phase: str) -> None:
    with scene.serve() as service, Halt(scene.a) as halt, scene.begun(f"phase={phase}", halt.word) as hauling:
        halt.reached(hauling)
        done = haul(scene.a, "cancel", NAME)
        assert done.out == f"Cancelled by p.haul cancel. {NAME} runs on here.\n"
        assert runs(scene.a, NAME)
        sentence = failed(ended(hauling), "cancelled", status=9)
        assert sentence == f"Cancelled by p.haul cancel. {NAME} runs on here."
        scene.stays(service)


@pytest.mark.parametrize("point", ["state=committed", "phase=release", "phase=finish"])
def test_cancel_too_late(scene: Scene, point: str) -> None:
    with scene.serve(), Halt(scene.a) as halt, scene.begun(point, halt.word) as hauling:
        halt.reached(hauling)
        late = scene.a.popen("p.haul", "cancel", NAME, stdout=-1, stderr=-1)
        if point == "state=committed":  # it has to wait until the other comes to say so
            wait_for(lambda: connected(scene.a), "the question's coming")
            halt.go()
        refused(ended(late), "too-late")
        halt.go()
        assert ended(hauling).code == 0
        scene.moved()


def test_cancel_of_what_fails_meanwhile(scene: Scene) -> None:
    """Who asks is told what became of it, whatever that is."""
    with scene.serve() as service, Halt(scene.a) as halt:
        with scene.begun("phase=undo", halt.word, "phase=restore", "raise=asked") as hauling:
            halt.reached(hauling)
            late = scene.a.popen("p.haul", "cancel", NAME, stdout=-1, stderr=-1)
            wait_for(lambda: connected(scene.a), "the question's coming")
            halt.go()
            failed(ended(hauling), "asked")
            done = ended(late)
            assert (done.code, done.err.splitlines()[-1]) == (7, "p.haul: [asked] exit status 7"), done
        scene.stays(service)


def connected(host: Host) -> bool:
    """Whether somebody has come to a haul's socket: beside the one that listens there is a second."""
    return host.proc("net/unix").count("/p.haul.sock") > 1


def test_only_root_reaches_a_haul(scene: Scene) -> None:
    with scene.serve(), Halt(scene.a) as halt, scene.begun("phase=sync", halt.word) as hauling:
        halt.reached(hauling)
        done = scene.a.run("setpriv", "--reuid=nobody", "--clear-groups", "p.haul", "cancel", NAME, check=False)
        refused(done, "not-root")
        (socket,) = scene.a.path("/var/lib/phaul/work").glob("*/p.haul.sock")
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        halt.go()
        assert ended(hauling).code == 0


def test_a_long_path_of_the_images(scene: Scene) -> None:
    """Longer than a socket's name may be."""
    path = "/var/tmp/" + "long/" * 30
    with scene.serve(), Halt(scene.a) as halt:
        with scene.begun("phase=sync", halt.word, more=("--img-path", path, "--keep-images")) as hauling:
            halt.reached(hauling)
            assert status(scene.a)[0]["progress"]["phase"] == "sync"
            haul(scene.a, "cancel", NAME)
            assert ended(hauling).code == 9
        assert not list(scene.a.path(path).rglob("p.haul.sock"))
        scene.a.run("rm", "-r", "/var/tmp/long")


def past(host: Host, *words: str) -> list[dict[str, Any]]:
    return of_type(objects(haul(host, "history", "--json", *words).out), "history")


def test_history(scene: Scene) -> None:
    workloads.counter(scene.a, "other")
    with scene.serve():
        assert scene.haul("phase=sync", "int").code == 9
        assert scene.haul("phase=sync", "raise=asked").code == 7
        assert scene.haul("state=frozen", "kill").code == -9
        wait_for(lambda: not status(scene.a), "the guard's undo")
        assert haul(scene.a, "docker", "other", scene.b.ip).code == 0
        assert scene.haul().code == 0
        wait_for(lambda: not status(scene.b), "the settling on b")
    mine = past(scene.a, NAME)
    assert [one["outcome"] for one in mine] == ["moved", "given-up", "failed", "cancelled"]
    assert [one.get("code") for one in mine] == [None, None, "asked", "cancelled"]
    moved = mine[0]
    assert 0 < moved["downtime"] < moved["total"] and moved["sent"] == sum(moved["by_kind"].values()) > 0
    assert mine[2]["downtime"] is None and mine[2]["status"] == 7
    assert moved["begun"] < moved["ended"] < time.time()
    assert [one["subject"] for one in past(scene.a)][:2] == [NAME, "other"]
    assert len(past(scene.a, "-n", "1")) == 1
    assert [one["outcome"] for one in past(scene.b)][:2] == ["arrived", "arrived"]
    head, first, *_ = haul(scene.a, "history").out.splitlines()
    assert head.split() == ["when", "what", "where", "outcome", "downtime", "total", "sent"]
    assert re.fullmatch(rf"[-\d]+ [:\d]+  {NAME} +to {scene.b.ip} +moved +\d+ ms +[\d.]+ s +[\d.]+ \w+", first), first
    assert haul(scene.a, "history", "nobody").out == "No haul of nobody is on record on this host.\n"
    refused(haul(scene.a, "history", "-n", "0", check=False), "usage", 2)
