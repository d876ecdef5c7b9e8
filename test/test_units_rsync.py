"""The target's rsync with a client that is none of ours: it takes what is pushed into one directory, and no more."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from phaul import fs_haul
from phaul.connection import Connection
from phaul.errors import LinkLost
from phaul.link import Link

SOON = 60
SECRET, OURS = "of the target", "of the source"


class Stage:
    """`tree` is what the target receives into, beside `secret`; `mine` is the client's."""

    def __init__(self, top: Path, name: str = "tree") -> None:
        self.tree, self.secret, self.mine, self.work = (top / part for part in (name, "secret", "mine", "work"))
        for directory in (self.tree, self.secret, self.mine, self.work):
            directory.mkdir()
        (self.secret / "file").write_text(SECRET)
        (self.tree / "file").write_text(SECRET)
        (self.mine / "new").write_text(OURS)

    def rsync(self, *words: str | Path) -> tuple[int, str]:
        """A client with these arguments; its status, and what it complained of."""
        here, there = socket.socketpair()
        receiver = threading.Thread(target=self._receive, args=(there,))
        receiver.start()
        ours, theirs = socket.socketpair()
        shell = f"{sys.executable} -IS {fs_haul.BRIDGE} {theirs.fileno()}"
        argv = ["rsync", "-e", shell, *words]
        client = subprocess.Popen(argv, pass_fds=(theirs.fileno(),), stderr=subprocess.PIPE, text=True)
        theirs.close()
        with contextlib.closing(Link(here, "there")) as link, ours, contextlib.suppress(LinkLost):
            link.relay(ours)
        complaints = client.communicate(timeout=SOON)[1]
        receiver.join(SOON)
        return client.returncode, complaints

    def _receive(self, sock: socket.socket) -> None:
        with contextlib.closing(Connection(Link(sock, "here"))) as channel, contextlib.suppress(LinkLost):
            fs_haul.receive(self.tree, channel, self.work)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_push_is_taken(stage: Stage) -> None:
    assert stage.rsync("-a", f"{stage.mine}/", "target::tree/") == (0, "")
    assert names(stage.tree) == {"file", "new"}


@pytest.mark.parametrize("more", [(), ("--copy-devices",)])
def test_nothing_is_given(stage: Stage, more: tuple[str, ...]) -> None:
    os.mknod(stage.tree / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    status, said = stage.rsync("-a", *more, "target::tree/", f"{stage.mine}/")
    assert status, said
    assert names(stage.mine) == {"new"}


def test_no_device_is_written_to(stage: Stage) -> None:
    """One that a push has made is as one that was there."""
    os.mknod(stage.tree / "new", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    status, said = stage.rsync("-a", "--write-devices", f"{stage.mine}/new", "target::tree/new")
    assert status, said
    assert stat.S_ISCHR((stage.tree / "new").stat().st_mode)


@pytest.mark.parametrize(
    "goal", ["target::tree/out/", "target::tree/../secret/", "target::secret/", "target::tree/up/secret/"]
)
def test_nothing_outside_is_reached(stage: Stage, goal: str) -> None:
    (stage.tree / "out").symlink_to(stage.secret)
    (stage.tree / "up").symlink_to("..")
    stage.rsync("-aK", f"{stage.mine}/", goal)
    assert names(stage.secret) == {"file"}


@pytest.mark.parametrize("option", ["--temp-dir", "--backup-dir", "--partial-dir", "--log-file"])
def test_no_option_leads_outside(stage: Stage, option: str) -> None:
    (stage.mine / "file").write_text(OURS)
    stage.rsync("-ab", "--ignore-times", f"--remote-option={option}={stage.secret}", f"{stage.mine}/", "target::tree/")
    assert names(stage.secret) == {"file"} and (stage.secret / "file").read_text() == SECRET


@pytest.mark.parametrize("name", ["a\npre-xfer exec = false", "%RSYNC_PID% #;", "a \\", " a ", "[global]"])
def test_a_directorys_name_is_no_setting(tmp_path: Path, name: str) -> None:
    stage = Stage(tmp_path, name)
    assert stage.rsync("-a", f"{stage.mine}/", "target::tree/") == (0, "")
    assert names(stage.tree) == {"file", "new"}
