"""Pids that are another's by the time that they are used: only what is the container's, or the same process, is met."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lab.waiting import until

from phaul import docker_restore, docker_source, docker_target, freezer, p_haul_pid, tasks_seen
from phaul.docker_api import NoSuch
from phaul.errors import HaulFailed

CONTAINER, OTHER = "c" * 64, "d" * 64
SLEEP = ("sleep", "600")


class NoEngine:
    """An engine that knows no container."""

    def __init__(self, **_: Any) -> None: ...

    def inspect(self, container: str) -> dict[str, Any]:
        raise NoSuch(f"Docker: no {container}")


@contextmanager
def in_cgroup(name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a cgroup of that name, as the engine gives a container one."""
    top = freezer.CGROUP if freezer.is_v2() else freezer.CGROUP / "freezer"
    parent = top / f"units-{secrets.token_hex(4)}"
    (parent / name).mkdir(parents=True)
    process = subprocess.Popen(SLEEP)
    try:
        (parent / name / "cgroup.procs").write_text(str(process.pid))
        yield process
    finally:
        freezer.Freezer(parent / name, freezer.is_v2()).thaw()
        process.kill()
        process.wait()
        (parent / name).rmdir()
        parent.rmdir()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process of another container, whose pid the journals below name."""
    with in_cgroup(OTHER) as process:
        yield process


def freeze(found: freezer.Freezer) -> None:
    name, word = ("cgroup.freeze", "1") if found.v2 else ("freezer.state", "FROZEN")
    (found.path / name).write_text(word)
    until(found.frozen, "the freezing")


def test_a_container_is_ended_with_all_in_its_cgroup() -> None:
    with in_cgroup(f"docker-{CONTAINER}.scope") as process:
        assert freezer.of_container(process.pid, CONTAINER) == freezer.of(process.pid)
        assert freezer.end(process.pid, CONTAINER, timeout=10)
        assert process.wait(10) == -signal.SIGKILL
        assert freezer.end(process.pid, CONTAINER, timeout=10)


def test_a_task_below_its_cgroup_stands_for_the_container() -> None:
    with in_cgroup(CONTAINER) as process:
        top = freezer.of(process.pid).path
        inner = top / "init.scope"
        inner.mkdir()
        (inner / "cgroup.procs").write_text(str(process.pid))
        assert freezer.of_container(process.pid, CONTAINER).path == top
        (top / "cgroup.procs").write_text(str(process.pid))
        inner.rmdir()


def test_a_stranger_is_no_task_of_the_container(stranger: subprocess.Popen[bytes]) -> None:
    for pid in (stranger.pid, os.getpid(), 2, 1 << 22):
        with pytest.raises(HaulFailed) as caught:
            freezer.of_container(pid, CONTAINER)
        assert caught.value.code == "gone"
        assert freezer.end(pid, CONTAINER, timeout=0)
    assert stranger.poll() is None


def test_the_end_of_a_source_copy_spares_a_stranger(
    stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_source, "Engine", NoEngine)
    facts = {"pid": stranger.pid, "container": CONTAINER, "name": "web", "rm": False}
    assert docker_source.DockerSource.finish(facts) == ["The source container web is gone (it was run with --rm)."]
    assert stranger.poll() is None


def test_a_restore_that_is_discarded_spares_a_stranger(
    stranger: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_restore.places, "RESTORE", tmp_path)
    (tmp_path / CONTAINER).mkdir()
    (tmp_path / CONTAINER / "restored").write_text(str(stranger.pid))
    docker_restore.discard(CONTAINER)
    assert stranger.poll() is None
    assert not (tmp_path / CONTAINER).exists()


def test_a_runc_that_still_waits_for_the_images_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime, which should have told it, went with the engine."""
    monkeypatch.setattr(docker_restore.places, "RESTORE", tmp_path)
    pending, images = tmp_path / CONTAINER, tmp_path / "work" / "images"
    pending.mkdir()
    images.mkdir(parents=True)
    (pending / "restore.json").write_text(json.dumps({"work": str(images.parent)}))
    os.mkfifo(images / "descriptors.json")
    waits = ["sh", "-c", 'exec 9>"$1"; flock 9; echo waits; exec cat "$2"', "sh"]
    runc = subprocess.Popen([*waits, pending / "lock", images / "descriptors.json"], stdout=subprocess.PIPE)
    try:
        assert runc.stdout and runc.stdout.readline() == b"waits\n"
        docker_restore.discard(CONTAINER)
        assert runc.wait(10) == 0
    finally:
        runc.kill()
        runc.communicate()
    assert not pending.exists()


def test_a_hold_of_tasks_whose_cgroup_goes_ends(tmp_path: Path) -> None:
    """systemd removes a container's scope as soon as its tasks are killed, before they can be thawed."""
    for name, text in (("lock", ""), ("restored", f"{os.getpid()}\n"), ("cgroup", f"{tmp_path}/gone\n")):
        (tmp_path / name).write_text(text)
    program = "import sys; from phaul import shim; sys.exit(shim.hold(sys.argv[1]))"
    shim = subprocess.Popen([sys.executable, "-c", program, tmp_path], cwd=Path(docker_restore.__file__).parents[1])
    try:
        until((tmp_path / "times").exists, "the hold")
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(tmp_path / "hold.sock"))
            peer.sendall(b"discard\n")
            assert shim.wait(10) == 1
    finally:
        shim.kill()
        shim.wait()
    assert (tmp_path / "discarded").exists()


def test_a_release_thaws_no_stranger(
    stranger: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_restore.places, "RESTORE", tmp_path)
    found = freezer.of(stranger.pid)
    freeze(found)
    with pytest.raises(HaulFailed) as caught:
        docker_target.DockerTarget.release({"container": CONTAINER, "first": stranger.pid})
    assert caught.value.code == "gone"
    assert found.frozen()


# Processes of `p.haul pid`


def other_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this host had been started anew, and each process at the same tick as its predecessor."""
    monkeypatch.setattr(tasks_seen, "boot_id", lambda: "another")


def signals(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pids that get one from now on, none of which really does."""
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: sent.append(pid))
    monkeypatch.setattr(freezer, "await_exit", lambda *_, **__: True)
    return sent


def journaled(pid: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What a source, a target that released, and one that restored know of a process."""
    pids = p_haul_pid.named([pid])
    return {"pids": pids, "work": "/nowhere"}, {"pids": pids}, {"pids": [pid], "boot": tasks_seen.boot_id(), "since": 0}


def meet(source: dict[str, Any], released: dict[str, Any], restored: dict[str, Any]) -> None:
    p_haul_pid.Source.finish(source)
    p_haul_pid.Source.undo("stop", source)
    p_haul_pid.Target.release(released)
    p_haul_pid.Target.undo("restored", restored)


def test_the_processes_of_a_haul_are_met(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = journaled(os.getpid())
    sent = signals(monkeypatch)
    meet(*facts)
    assert sent == [os.getpid()] * 4


def test_after_a_boot_whoever_has_their_pids_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = journaled(os.getpid())
    sent = signals(monkeypatch)
    other_boot(monkeypatch)
    meet(*facts)
    assert sent == []


def test_processes_that_ended_are_met_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen("true") as process:
        pass
    facts = journaled(process.pid)
    sent = signals(monkeypatch)
    meet(*facts)
    assert sent == []


def test_who_was_there_before_the_restore_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    restored = {"boot": tasks_seen.boot_id(), "since": time.clock_gettime(time.CLOCK_BOOTTIME)}
    with subprocess.Popen(SLEEP) as came:
        with monkeypatch.context() as patch:
            sent = signals(patch)
            p_haul_pid.Target.undo("restored", {**restored, "pids": [os.getpid(), came.pid]})
        came.kill()
    assert sent == [came.pid]


def test_what_is_to_be_killed_is_known_while_it_is_frozen() -> None:
    with in_cgroup(CONTAINER) as process:
        cgroup = freezer.of(process.pid)
        cgroup.freeze(timeout=10)
        assert not tasks_seen.is_doomed(process.pid)
        process.kill()
        # cgroup v2 lets what is killed go.
        assert tasks_seen.is_doomed(process.pid) or cgroup.v2
        cgroup.thaw()
