"""Who asks for it, and when: up to COMMIT a haul is called off and nothing of it is left, after it goes to its end."""

from __future__ import annotations

import pytest
from faults import CLEAN_S, NAME, PATIENT, Halt, Scene, at_point
from hauling import state
from lab import service
from terminal import CTRL_C, Terminal

BEFORE_COMMIT = ["prepare", "sync", "pre-copy", "freeze", "restore", "memory"]


def on_terminal(scene: Scene, *words: str, target: str = "") -> Terminal:
    """p.haul of the container, told what to do where."""
    return Terminal(scene.a, *at_point("p.haul", words), "docker", NAME, target or scene.b.ip, columns=80)


@pytest.mark.parametrize("phase", BEFORE_COMMIT)
def test_ctrl_c_in_each_phase(scene: Scene, phase: str) -> None:
    """It reaches all that was started from there; more of them, while it is being undone, change nothing."""
    with scene.serve() as service, Halt(scene.a) as halt, Halt(scene.a) as undoing:
        points = (f"phase={phase}", halt.word, "before=phaul.iters:Haul._call_off", undoing.word)
        with on_terminal(scene, *points) as terminal:
            halt.reached(terminal.process)
            terminal.press(CTRL_C)
            undoing.reached(terminal.process)
            assert state(scene.a, NAME) == "running"
            terminal.press(CTRL_C)
            terminal.press(CTRL_C)
            undoing.go()
            assert terminal.ended() == 9, terminal.picture()
        assert f"Cancelled by SIGINT. {NAME} runs on here." in terminal.picture()
        assert "Traceback" not in terminal.picture()
        scene.stays(service)


def test_ctrl_c_in_the_check(scene: Scene) -> None:
    with scene.serve() as service, Halt(scene.a) as halt:
        with on_terminal(scene, "before=phaul.preflight:plan", halt.word) as terminal:
            halt.reached(terminal.process)
            terminal.press(CTRL_C)
            assert terminal.ended() == 9, terminal.picture()
        assert "Cancelled by SIGINT." in terminal.picture()
        scene.stays(service)


def test_ctrl_c_before_there_is_anything(scene: Scene) -> None:
    """While it still loads what it needs."""
    with Halt(scene.a) as halt:
        with on_terminal(scene, "before=phaul.htype:load", halt.word) as terminal:
            halt.reached(terminal.process)
            terminal.press(CTRL_C)
            terminal.ended()
        assert "Traceback" not in terminal.picture()
    scene.stays()


@pytest.mark.parametrize("phase", ["release", "finish"])
def test_ctrl_c_after_commit_is_answered_at_once(scene: Scene, phase: str) -> None:
    with scene.serve(), Halt(scene.a) as halt:
        with on_terminal(scene, f"phase={phase}", halt.word) as terminal:
            halt.reached(terminal.process)
            terminal.press(CTRL_C)
            terminal.shows("^SIGINT came too late")
            halt.go()
            assert terminal.ended() == 0, terminal.picture()
        scene.moved()


@pytest.mark.parametrize("phase", ["memory", "release"])
def test_ctrl_c_over_ssh(scene: Scene, phase: str) -> None:
    """The connection lives through it, for the undoing or for the rest of the haul."""
    service.allow_ssh(scene.a, scene.b)
    with Halt(scene.a) as halt:
        with on_terminal(scene, f"phase={phase}", halt.word, target=f"root@{scene.b.ip}") as terminal:
            halt.reached(terminal.process)
            terminal.press(CTRL_C)
            halt.go()
            assert terminal.ended() == (9 if phase == "memory" else 0), terminal.picture()
        if phase == "memory":
            assert state(scene.a, NAME) == "running" and not state(scene.b, NAME)
        else:
            assert state(scene.b, NAME) == "running" and state(scene.a, NAME) == "exited"


@pytest.mark.parametrize("phase", ["release", "finish"])
def test_a_terminal_that_goes_away_after_commit(scene: Scene, phase: str) -> None:
    """Nobody is there to be told, and all is done nevertheless."""
    with scene.serve(*PATIENT):
        with Halt(scene.a) as halt, on_terminal(scene, f"phase={phase}", halt.word) as terminal:
            halt.reached(terminal.process)
            terminal.hang_up()
            halt.go()
            assert terminal.ended() == 0
        scene.moved()


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_reader_that_goes_away(scene: Scene, more: tuple[str, ...]) -> None:
    with scene.serve(), Halt(scene.a) as halt:
        with scene.begun("phase=sync", halt.word, more=more) as hauling:
            halt.reached(hauling)
            hauling.stdout.close()
            halt.go()
            assert hauling.wait(CLEAN_S) == 0
        scene.moved()


def test_a_terminal_that_goes_away(scene: Scene) -> None:
    """SIGHUP cancels, but not where nohup has p.haul ignore it."""
    with scene.serve() as service:
        with Halt(scene.a) as halt, on_terminal(scene, "phase=restore", halt.word) as terminal:
            halt.reached(terminal.process)
            terminal.hang_up()
            halt.go()
            terminal.ended()
        scene.stays(service)
        with Halt(scene.a) as halt:
            command = ("nohup", *at_point("p.haul", ("phase=restore", halt.word)), "docker", NAME, scene.b.ip)
            with Terminal(scene.a, *command, columns=80) as terminal:
                halt.reached(terminal.process)
                terminal.hang_up()
                halt.go()
                terminal.ended()
        scene.moved()
