"""After COMMIT: whatever breaks, the container comes to run exactly once, at the latest by `p.haul --resolve`."""

from __future__ import annotations

import subprocess

import pytest
from faults import (
    CLEAN_S,
    JOURNALS,
    NAME,
    PATIENT,
    QUICK,
    Halt,
    Scene,
    all_settled,
    at_point,
    ended,
    failed,
    goes_on,
    in_doubt,
    kill_guards,
    kill_inner,
    of_service,
    runs,
    stands_still,
    state_of_haul,
)
from hauling import haul, inspect, refused, state, wait_for
from lab import Done, workloads

# A p.haul that finds out soon that nobody answers, and does not ask for long.
HASTY = ("set=phaul.link:DEAD_AFTER_MS=2000", "set=phaul.resolve:PATIENCE_SECONDS=0.5")
COMMITTED = "before=phaul.iters:Release"
READY = "before=phaul.docker_target:DockerTarget.ready#2"  # the first time is before COMMIT
TARGET_AFTER_RELEASE = (
    "state=running",
    "after=phaul.docker_target:DockerTarget.release",
    "before=phaul.docker_target:DockerTarget.settle",
    "state=done",
)


def resolve(scene: Scene, *options: str) -> Done:
    return haul(scene.a, "--resolve", NAME, *options, check=False)


def told(done: Done, *beginnings: str) -> None:
    """Raises AssertionError unless it ended well and said these sentences."""
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert len(lines) == len(beginnings), done
    assert all(line.startswith(words) for line, words in zip(lines, beginnings, strict=True)), done


def still_frozen(scene: Scene) -> None:
    """The copy on a neither runs nor is gone."""
    assert state(scene.a, NAME) == "paused"
    assert stands_still(lambda: workloads.file_in(scene.a, NAME, "/ticks"), 0.3)


def moved_by(scene: Scene, done: Done) -> None:
    told(done, f"{NAME} runs on {scene.b.ip}.", f"The source container {NAME} is left stopped")
    scene.moved()


# The service ends in its release


@pytest.mark.parametrize("point", TARGET_AFTER_RELEASE)
def test_service_killed_after_its_release(scene: Scene, point: str) -> None:
    """Its guard carries the release out, and p.haul comes again until a new service answers."""
    with scene.serve(point, "kill") as service, scene.begun() as hauling:
        service.process.wait(CLEAN_S)
        with scene.serve():
            done = ended(hauling)
            assert done.code == 0, done
            scene.moved()


def test_service_killed_with_the_release_not_begun(scene: Scene) -> None:
    """Its guard gives the copy up; p.haul learns that from a new service and thaws."""
    with scene.serve(READY, "kill") as service, scene.begun() as hauling:
        service.process.wait(CLEAN_S)
        with scene.serve() as another:
            failed(ended(hauling), "not-held", lab=scene.lab)
            scene.stays(another)
            scene.moves_now()


def test_service_and_its_guard_killed_after_the_release(scene: Scene) -> None:
    """The next service carries out what the last one had written down."""
    with Halt(scene.b) as halt, scene.serve("state=running", halt.word) as service, scene.begun() as hauling:
        halt.reached(service.process)
        kill_guards(scene.b)
        service.kill()
        assert not runs(scene.b, NAME) or state_of_haul(scene.b) == "running"
        still_frozen(scene)
        with scene.serve():
            done = ended(hauling)
            assert done.code == 0, done
            scene.moved()


def test_service_gone_for_good_leaves_it_in_doubt(scene: Scene) -> None:
    with scene.serve(READY, "kill"):
        sentence = in_doubt(scene.haul(*HASTY))
    assert f"p.haul --resolve {NAME}" in sentence
    still_frozen(scene)
    with scene.serve() as service:
        told(resolve(scene), f"{NAME} was given up by {scene.b.ip}: it runs on here.")
        scene.stays(service)
        scene.moves_now()


# The link breaks after COMMIT


def cut_after_commit(scene: Scene, *words: str) -> None:
    """A haul whose link is cut between COMMIT and RELEASE, and which ends in doubt."""
    with Halt(scene.a) as halt, scene.begun(*HASTY, COMMITTED, halt.word, *words) as hauling:
        halt.reached(hauling)
        scene.lab.cut("b")
        halt.go()
        in_doubt(ended(hauling))
    still_frozen(scene)


def test_cut_before_release_and_joined_while_held(scene: Scene) -> None:
    with scene.serve(*PATIENT):
        cut_after_commit(scene)
        assert state_of_haul(scene.b) == "held"
        in_doubt(scene.a.run(*at_point("p.haul", HASTY), "--resolve", NAME, check=False))
        still_frozen(scene)
        scene.lab.join("b")
        moved_by(scene, resolve(scene))


def test_cut_before_release_and_joined_when_given_up(scene: Scene) -> None:
    with scene.serve(*QUICK) as service:
        cut_after_commit(scene)
        scene.nothing_left(scene.b, *of_service(service))
        still_frozen(scene)
        scene.lab.join("b")
        told(resolve(scene), f"{NAME} was given up by {scene.b.ip}: it runs on here.")
        scene.stays(service)
        scene.moves_now()


def test_cut_before_release_and_a_signal(scene: Scene) -> None:
    """A signal after COMMIT does not hide that it is in doubt."""
    with scene.serve(*PATIENT):
        cut_after_commit(scene, "phase=release", "term")
        scene.lab.join("b")
        moved_by(scene, resolve(scene))


def test_cut_after_release(scene: Scene) -> None:
    """It runs on b already, which the source cannot know."""
    with (
        Halt(scene.b) as halt,
        scene.serve("state=running", halt.word) as service,
        scene.begun(*HASTY) as hauling,
    ):
        halt.reached(service.process)
        scene.lab.cut("b")
        halt.go()
        wait_for(lambda: runs(scene.b, NAME), "the container's running on b")
        in_doubt(ended(hauling))
        still_frozen(scene)
        scene.lab.join("b")
        moved_by(scene, resolve(scene))


def test_short_cut_goes_unnoticed(scene: Scene) -> None:
    """p.haul comes again by itself when the link is back in time."""
    with scene.serve(*PATIENT), Halt(scene.a) as halt, scene.begun(HASTY[0], COMMITTED, halt.word) as hauling:
        halt.reached(hauling)
        scene.lab.cut("b")
        halt.go()
        with pytest.raises(subprocess.TimeoutExpired):
            hauling.wait(4)  # longer than it takes to notice
        scene.lab.join("b")
        assert ended(hauling).code == 0
        scene.moved()


# p.haul --resolve


def test_nothing_to_resolve(scene: Scene) -> None:
    assert refused(resolve(scene), "nothing-to-resolve") == f"No haul of {NAME!r} is unsettled on this host."
    with scene.serve():
        scene.moves_now()
        refused(resolve(scene), "nothing-to-resolve")


@pytest.mark.parametrize("point", ["phase=sync", "state=frozen", COMMITTED])
def test_p_haul_at_work(scene: Scene, point: str) -> None:
    """Neither --resolve nor another haul disturbs it."""
    with scene.serve(*PATIENT), Halt(scene.a) as halt, scene.begun(point, halt.word) as hauling:
        halt.reached(hauling)
        refused(resolve(scene), "haul-busy")
        refused(resolve(scene, "--force"), "haul-busy")
        refused(scene.haul(), "haul-busy")
        halt.go()
        assert ended(hauling).code == 0
        scene.moved()


def both_killed(scene: Scene, point: str) -> None:
    """p.haul and its guard die at the point."""
    with Halt(scene.a) as halt, scene.begun(point, halt.word) as hauling:
        halt.reached(hauling)
        kill_guards(scene.a)
        kill_inner(hauling)


@pytest.mark.parametrize("point", ["phase=sync", "push=pause", "state=frozen", "before=phaul.iters:Verify"])
def test_p_haul_and_its_guard_killed_before_commit(scene: Scene, point: str) -> None:
    with scene.serve(*QUICK) as service:
        both_killed(scene, point)
        assert not all_settled(scene.a)
        told(resolve(scene), f"{NAME} was not committed: it runs on here.")
        scene.stays(service)
        scene.moves_now()


def test_the_next_haul_settles_what_was_not_committed(scene: Scene) -> None:
    with scene.serve(*QUICK):
        both_killed(scene, "phase=sync")
        done = scene.haul()
        assert done.code == 0, done
        assert done.out.startswith(f"An earlier haul: {NAME} was not committed: it runs on here.\n"), done
        scene.moved()


def test_p_haul_killed_before_it_has_a_guard(scene: Scene) -> None:
    with scene.serve() as service:
        assert scene.haul("state=begun", "kill").code == -9
        told(resolve(scene), f"{NAME} was not committed: it runs on here.")
        scene.stays(service)


def test_p_haul_and_its_guard_killed_after_commit_while_held(scene: Scene) -> None:
    with scene.serve(*PATIENT):
        both_killed(scene, COMMITTED)
        still_frozen(scene)
        refused(scene.haul(), "unsettled")
        still_frozen(scene)
        moved_by(scene, resolve(scene))
        refused(resolve(scene), "nothing-to-resolve")


def test_p_haul_and_its_guard_killed_after_commit_and_given_up(scene: Scene) -> None:
    with scene.serve(*QUICK) as service:
        both_killed(scene, COMMITTED)
        scene.nothing_left(scene.b, *of_service(service))
        still_frozen(scene)
        told(resolve(scene), f"{NAME} was given up by {scene.b.ip}: it runs on here.")
        scene.stays(service)
        scene.moves_now()


def test_p_haul_and_its_guard_killed_after_the_release(scene: Scene) -> None:
    with scene.serve():
        both_killed(scene, "phase=finish")
        assert runs(scene.b, NAME)
        still_frozen(scene)
        moved_by(scene, resolve(scene))


def test_force(scene: Scene) -> None:
    """The operator knows that the target's copy will never run."""
    with scene.serve(*QUICK) as service:
        cut_after_commit(scene)
        told(
            resolve(scene, "--force"), f"{NAME} runs on here, by force: make sure that it does not run on {scene.b.ip}."
        )
        goes_on(scene.a, NAME)
        scene.stays(service)
        scene.lab.join("b")
        scene.moves_now()


def test_force_before_commit(scene: Scene) -> None:
    with scene.serve(*QUICK) as service:
        both_killed(scene, "state=frozen")
        told(resolve(scene, "--force"), f"{NAME} was not committed: it runs on here.")
        scene.stays(service)


# Pids in a journal may be another's by the time that they are used: the host was started anew, or much time has passed


@pytest.fixture
def bystander(scene: Scene) -> str:
    """The name of another container on a, that each of these journals takes for its own."""
    return workloads.counter(scene.a, "bystander")


def ends_here(scene: Scene) -> None:
    """The frozen copy on a is killed, and its journal names the bystander's pid now."""
    pid, other = (inspect(scene.a, name)["State"]["Pid"] for name in (NAME, "bystander"))
    scene.a.run("kill", "-9", str(pid))
    scene.a.docker("unpause", NAME)
    wait_for(lambda: state(scene.a, NAME) == "exited", "the end of the copy on a")
    scene.a.run("sh", "-c", f'sed -i \'s/"pid": {pid}/"pid": {other}/\' {JOURNALS}/*.source')


def test_the_end_of_the_copy_spares_who_has_its_pid_now(scene: Scene, bystander: str) -> None:
    with scene.serve(*PATIENT):
        both_killed(scene, COMMITTED)
        ends_here(scene)
        moved_by(scene, resolve(scene))
        goes_on(scene.a, "bystander")


def test_an_undo_without_an_engine_spares_who_has_its_pid_now(scene: Scene, bystander: str) -> None:
    with scene.serve(*QUICK):
        both_killed(scene, "state=frozen")
        ends_here(scene)
        scene.a.docker("pause", "bystander")
        pid = inspect(scene.a, "bystander")["State"]["Pid"]
        scene.a.kill_dockerd()
        refused(resolve(scene), "undo", 7)
        # How long and how often it ran.
        assert stands_still(scene.a.path(f"/proc/{pid}/schedstat").read_bytes, 0.3)
