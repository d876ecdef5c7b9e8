"""A haul that fails, at whatever point and for whatever reason, leaves one running copy and no trace of itself."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from typing import Any

import pytest
from faults import (
    CLEAN_S,
    NAME,
    PATIENT,
    QUICK,
    Halt,
    Scene,
    ended,
    failed,
    goes_on,
    little_room,
    of_service,
    runs,
    stands_still,
)
from hauling import haul, state, wait_for
from lab import Host, images, workloads

GONE = ("link-lost", "service-not-running")  # by where p.haul is when it finds out
# Stops CRIU in its work and kills the program: so it is known that the one dies while the other works.
KILL_WHILE_CRIU_WORKS = "run=(until kill -STOP $(pidof criu); do sleep 0.001; done; kill -KILL $PPID) >/dev/null 2>&1 &"
LET_CRIU_GO_ON = ("sh", "-c", "kill -CONT $(pidof criu)")
# A CRIU that kills p.haul when all is dumped, and then does not end before it is told to.
KILL_AT_THE_END_OF_THE_DUMP = """run=
cat >/tmp/at-the-end <<END
#!/bin/sh
[ "\\$CRTOOLS_SCRIPT_ACTION" != post-dump ] || {{ kill -KILL $PPID; head -c 1 {gate}; }}
END
chmod +x /tmp/at-the-end
echo action-script /tmp/at-the-end >>$(echo /var/lib/phaul/work/*/criu.conf)
"""
IMAGES = "/var/lib/phaul/work/*/images"

SOURCE_BEFORE_COMMIT = (
    "phase=prepare",
    "phase=sync",
    "push=dump",
    "before=phaul.docker_dump:Dump.until_poised",
    "after=phaul.docker_dump:Dump.until_poised",
    "phase=freeze",
    "push=restart-policy",
    "push=pause",
    "after=phaul.docker_source:DockerSource.freeze",
    "state=frozen",
    "after=phaul.dump_unseen:Cover.hide",
    "before=phaul.dump_pages:add",
    "after=phaul.docker_dump:Dump.finish",
    "phase=restore",
    "before=phaul.iters:Verify",
)
SOURCE_AFTER_COMMIT = ("after=phaul.iters:Haul._move", "phase=release", "before=phaul.iters:Release", "phase=finish")
TARGET_BEFORE_COMMIT = (
    "state=begun",
    "push=work",
    "push=network",
    "push=volume",
    "push=container",
    "after=phaul.docker_target:DockerTarget.prepare",
    "before=phaul.fs_haul:receive",
    "before=phaul.images:receive",
    "push=restore",
    "after=phaul.docker_restore:announce",
    "after=phaul.docker_restore:Starting.until_poised",
    "before=phaul.docker_restore:Starting.until_held",
    "after=phaul.docker_restore:Starting.until_held",
    "state=held",
    "before=phaul.verify:check",
    "after=phaul.verify:check",
)


def some(points: Sequence[str], first: int) -> list[Any]:
    """Every sixth of them; the others are `long`: the crash matrix, and the journals' tests, break hauls there too."""
    return [
        point if number % 6 == first else pytest.param(point, marks=pytest.mark.long)
        for number, point in enumerate(points)
    ]


# The source's p.haul ends


def test_p_haul_killed_in_its_check(scene: Scene) -> None:
    with scene.serve() as service:
        assert scene.haul("phase=check", "kill").code == -9
        scene.stays(service)
        scene.moves_now()


@pytest.mark.parametrize("point", some(SOURCE_BEFORE_COMMIT, 0))
def test_p_haul_killed_before_commit(scene: Scene, point: str) -> None:
    with scene.serve() as service:
        assert scene.haul(point, "kill").code == -9
        scene.stays(service)
        scene.moves_now()


def test_p_haul_killed_while_criu_dumps(scene: Scene) -> None:
    """CRIU, as it ends, leaves the tasks as frozen as it found them: nothing must be thawed before."""
    with scene.serve() as service, Halt(scene.a) as halt:
        script = KILL_AT_THE_END_OF_THE_DUMP.format(gate=halt.gate)
        assert scene.haul("before=phaul.docker_lazy:LazyDump.__init__", script).code == -9
        assert stands_still(lambda: state(scene.a, NAME).encode(), 1)
        halt.go()
        scene.stays(service)
        scene.moves_now()


@pytest.mark.parametrize("point", some(["state=committed", *SOURCE_AFTER_COMMIT], 1))
def test_p_haul_killed_after_commit(scene: Scene, point: str) -> None:
    """Its guard finishes what is decided."""
    with scene.serve(*PATIENT):
        assert scene.haul(point, "kill").code == -9
        scene.moved()


@pytest.mark.parametrize("point", some(SOURCE_BEFORE_COMMIT, 1))
def test_cancelled(scene: Scene, point: str) -> None:
    with scene.serve() as service:
        for word in ("int", "term"):
            sentence = failed(scene.haul(point, word), "cancelled", status=9)
            assert sentence == f"Cancelled by SIG{word.upper()}. {NAME} runs on here."
            scene.stays(service)
        scene.moves_now()


@pytest.mark.parametrize("point", ["phase=check", "state=begun"])
def test_cancelled_before_anything_is_done(scene: Scene, point: str) -> None:
    with scene.serve() as service:
        for word in ("int", "term"):
            done = scene.haul(point, word)
            assert (done.code, done.err.splitlines()[0]) == (9, f"p.haul: Cancelled by SIG{word.upper()}."), done
            scene.stays(service)
        scene.moves_now()


def test_cancelled_while_the_target_restores(scene: Scene) -> None:
    """It runs on here at once, however long the target takes; and the target is told, not left to find out."""
    point = "before=phaul.docker_restore:Starting.until_held"
    with Halt(scene.b) as halt, scene.serve(*PATIENT, point, halt.word) as service, scene.begun() as hauling:
        halt.reached(service.process)
        hauling.send_signal(signal.SIGINT)
        wait_for(lambda: runs(scene.a, NAME), "the container's running on a")
        goes_on(scene.a, NAME)
        halt.go()
        failed(ended(hauling), "cancelled", status=9, lab=scene.lab)
        scene.stays(service)
        scene.moves_now()


def test_cancelled_twice(scene: Scene) -> None:
    """A second signal at the worst moment, before the first one's rollback has begun."""
    with scene.serve() as service:
        done = scene.haul("state=frozen", "int", "before=phaul.iters:Haul._roll_back", "int")
        assert done.code == 9, done
        scene.stays(service)
        scene.moves_now()


@pytest.mark.parametrize("word", ["int", "term"])
@pytest.mark.parametrize("point", some(["state=committed", *SOURCE_AFTER_COMMIT], 0))
def test_a_signal_after_commit_is_too_late(scene: Scene, point: str, word: str) -> None:
    with scene.serve():
        done = scene.haul(point, word)
        assert done.code == 0, done
        assert "it was too late to cancel" in done.out
        scene.moved()


# The target's service ends


@pytest.mark.parametrize("point", some(TARGET_BEFORE_COMMIT, 2))
def test_service_killed_before_commit(scene: Scene, point: str) -> None:
    with scene.serve(point, "kill") as service:
        done = scene.haul()
        assert service.process.wait(CLEAN_S) == -9
    failed(done, *GONE)
    scene.stays_and_moves()


def test_service_killed_while_criu_restores(scene: Scene) -> None:
    with scene.serve("before=phaul.docker_restore:Starting.until_held", KILL_WHILE_CRIU_WORKS) as service:
        done = scene.haul()
        assert service.process.wait(CLEAN_S) == -9
        scene.b.run(*LET_CRIU_GO_ON)
    failed(done, *GONE)
    scene.stays_and_moves()


@pytest.mark.parametrize(
    "point",
    [
        "after=phaul.docker_target:DockerTarget.prepare",
        "before=phaul.images:receive",
        "before=phaul.docker_restore:Starting.until_held",
        "before=phaul.verify:check",
    ],
)
def test_service_ended_before_commit(scene: Scene, point: str) -> None:
    """SIGTERM: it takes back what it has begun before it ends."""
    with Halt(scene.b) as halt, scene.serve(*PATIENT, point, halt.word) as service, scene.begun() as hauling:
        halt.reached(service.process)
        service.process.send_signal(signal.SIGTERM)
        failed(ended(hauling), *GONE)
        halt.go()
        assert service.process.wait(CLEAN_S) == 0, service.log()
        scene.stays(service)
    scene.stays_and_moves()


# The target refuses, or is not able


def test_criu_refuses_to_restore(scene: Scene) -> None:
    with scene.serve("after=phaul.images:receive", f"run=echo spoilt >$(echo {IMAGES}/pstree.img)") as service:
        sentence = failed(scene.haul(), "restore", lab=scene.lab)
        assert re.match(r"CRIU could not restore the container: .*(pstree|magic|image)", sentence), sentence
        scene.stays(service)
        scene.moves_now()


def test_what_is_restored_is_not_what_was_frozen(scene: Scene) -> None:
    spoil = "run=for file in /var/lib/docker/overlay2/*/merged/ticks; do echo more >>$file; done"
    with scene.serve("before=phaul.tasks_seen:expectation", spoil) as service:
        sentence = failed(scene.haul(), "verify", lab=scene.lab)
        assert re.search(r"/ticks of task 1 had \d+ bytes, /ticks has \d+", sentence), sentence
        scene.stays(service)
        scene.moves_now()


def test_verification_fails(scene: Scene) -> None:
    with scene.serve(*PATIENT, "before=phaul.verify:check", "raise=verify") as service:
        failed(scene.haul(), "verify")
        scene.stays(service)
        scene.moves_now()


def test_image_and_bind_mount_are_taken_back(scene: Scene) -> None:
    """What the target lacked: the image's name and layers, the directory of a bind mount."""
    images.load(scene.a, "busybox-layered")
    if images.has(scene.b, "busybox-layered"):
        images.remove(scene.b, "busybox-layered")
    scene.a.path("/srv/taken-back").mkdir()
    scene.a.docker("run", "-d", "--name", "layered", "-v", "/srv/taken-back:/bound", "busybox-layered", "ticker")
    for point in ("after=phaul.docker_target:DockerTarget.prepare", "before=phaul.verify:check"):
        with scene.serve(point, "raise=asked") as service:
            failed(haul(scene.a, "docker", "layered", scene.b.ip, "--copy-binds", check=False), "asked")
            assert not scene.b.path("/srv/taken-back").exists()
            scene.nothing_left(scene.b, *of_service(service))
            assert not images.has(scene.b, "busybox-layered")
            goes_on(scene.a, "layered")


def test_the_source_cannot_dump(scene: Scene) -> None:
    with scene.serve() as service:
        failed(scene.haul("before=phaul.docker_dump:Dump.finish", "raise=dump"), "dump", lab=scene.lab)
        scene.stays(service)
        scene.moves_now()


def test_somebody_lets_it_run_before_commit(scene: Scene) -> None:
    """What the target has is not what it is any more."""
    with scene.serve() as service, Halt(scene.a) as halt, scene.begun(BEFORE_COMMIT, halt.word) as hauling:
        halt.reached(hauling)
        scene.a.docker("unpause", NAME)
        halt.go()
        failed(ended(hauling), "not-frozen", lab=scene.lab)
        scene.stays(service)
        scene.moves_now()


def test_work_directory_full(scene: Scene) -> None:
    work = "/var/lib/phaul/work"
    scene.b.run("sh", "-ec", f"mkdir -p {work}; mount -t tmpfs -o size=64k tmpfs {work}")
    with scene.serve() as service:
        try:
            sentence = failed(scene.haul(), "images", lab=scene.lab)
            assert re.fullmatch(
                rf"The target could not store \S+: No space left on device\. {NAME} runs on here\.", sentence
            )
            assert not list(scene.b.path(work).iterdir())
        finally:
            scene.b.run("umount", work)
        scene.stays(service)
        scene.moves_now()


def test_engine_disk_full(scene: Scene) -> None:
    """There was room when it was checked, and is none any more when the files come."""
    scene.a.docker("exec", NAME, "dd", "if=/dev/urandom", "of=/data/much", "bs=1M", "count=24")
    with scene.serve() as service, Halt(scene.a) as halt, scene.begun("phase=prepare", halt.word) as hauling:
        halt.reached(hauling)
        with little_room(scene.b, 12):
            halt.go()
            sentence = failed(ended(hauling), "rsync", lab=scene.lab)
        assert "No space left on device" in sentence, sentence
        scene.stays(service)
        scene.moves_now()


def test_engine_killed_before_prepare(scene: Scene) -> None:
    with scene.serve() as service, Halt(scene.a) as halt, scene.begun("phase=prepare", halt.word) as hauling:
        halt.reached(hauling)
        scene.b.kill_dockerd()
        halt.go()
        failed(ended(hauling), "engine-down")
        scene.b.start_dockerd()
        scene.stays(service)
        scene.moves_now()


HELD, BEFORE_COMMIT, RELEASE_WRITTEN = "state=held", "before=phaul.iters:Barrier.reach#2", "state=running"
VERIFIED = "before=phaul.docker_target:DockerTarget.ready#2"  # the source has committed


@pytest.mark.parametrize("point", [HELD, VERIFIED])
def test_engine_killed_while_held(scene: Scene, point: str) -> None:
    """The restored tasks are ended at once; what only the engine can undo, when it is back."""
    with Halt(scene.b) as halt, scene.serve(*QUICK, point, halt.word) as service, scene.begun() as hauling:
        halt.reached(service.process)
        scene.b.kill_dockerd()
        halt.go()
        failed(ended(hauling), "not-held", lab=scene.lab)
        wait_for(lambda: runs(scene.a, NAME), "the container's running on a")
        goes_on(scene.a, NAME)
        assert not tickers(scene.b)
        scene.b.start_dockerd()
        scene.stays(service)
        scene.moves_now()


@pytest.mark.parametrize("point", [HELD, VERIFIED])
def test_tasks_killed_while_held(scene: Scene, point: str) -> None:
    """By an administrator, or for want of memory: frozen, they would only end when they are released."""
    with Halt(scene.b) as halt, scene.serve(point, halt.word) as service, scene.begun() as hauling:
        halt.reached(service.process)
        scene.b.run("kill", "-9", *tickers(scene.b))
        halt.go()
        failed(ended(hauling), "not-held", lab=scene.lab)
        scene.stays(service)
        scene.moves_now()


def tickers(host: Host) -> list[str]:
    """The counter's processes on the host, in any container."""
    return host.run("pidof", "ticker", check=False).out.split()


# While the target holds the restored tasks


@pytest.mark.parametrize("point", [HELD, RELEASE_WRITTEN])
def test_held_tasks_do_not_run(scene: Scene, point: str) -> None:
    """Not even when the engine has taken them for started, which it has before they are released."""
    with Halt(scene.b) as halt, scene.serve(point, halt.word) as service, scene.begun() as hauling:
        halt.reached(service.process)
        assert state(scene.a, NAME) == "paused"
        assert (state(scene.b, NAME) == "running") is (point == RELEASE_WRITTEN)
        pids = tickers(scene.b)
        assert len(pids) == 1
        tick_files = list(scene.b.path("/var/lib/docker/overlay2").glob("*/merged/ticks"))
        assert len(tick_files) == 1

        def seen() -> bytes:
            """What the tasks have written, and how long and how often they ran."""
            process = scene.b.path(f"/proc/{pids[0]}")
            return tick_files[0].read_bytes() + (process / "schedstat").read_bytes()

        assert stands_still(seen, 1)
        written = tick_files[0].read_bytes()
        assert written == workloads.file_in(scene.a, NAME, "/ticks"), "the restored copy has run"
        halt.go()
        assert ended(hauling).code == 0
        scene.moved()
