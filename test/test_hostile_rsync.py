"""A source that speaks rsync as it likes to the target's daemon: nothing beside the tree is read or written.

The client is the real rsync, told to do what P.Haul never tells it; the daemon is started as for a haul.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from phaul import fs_haul
from phaul.connection import Connection
from phaul.link import Link

SOON = 60
REFUSED = 4  # rsync(1), EXIT VALUES: requested action not supported
SECRET = b"nobody's business\n"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("rsync"), reason="a daemon that changes its root needs root, and rsync"
)


@dataclass
class World:
    """A tree at the target, what lies beside it, and what a source has to send."""

    top: Path
    tree: Path

    def __post_init__(self) -> None:
        self.outside, self.evil, self.work = (self.top / name for name in ("outside", "evil", "work"))
        for directory in (self.tree, self.outside, self.evil, self.work):
            directory.mkdir(parents=True, exist_ok=True)
        (self.outside / "secret").write_bytes(SECRET)
        (self.evil / "file").write_bytes(b"evil\n")
        (self.tree / "own").write_bytes(b"own\n")
        (self.tree / "out").symlink_to(self.outside)
        (self.tree / "far").symlink_to("../outside")

    def rsync(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """The client, as a source runs it but for its words; the daemon has ended then as well."""
        ours, theirs = socket.socketpair()
        near, far = (Link(sock, "peer") for sock in socket.socketpair())
        with ours, theirs, ThreadPoolExecutor(2) as pool:
            shell = f"{sys.executable} -IS {fs_haul.BRIDGE} {theirs.fileno()}"
            client = subprocess.Popen(
                ["rsync", "-e", shell, *words],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            theirs.close()
            receiving = pool.submit(fs_haul.receive, self.tree, Connection(far), self.work)
            carrying = pool.submit(near.relay, ours)
            out, err = client.communicate(timeout=SOON)
            carrying.result(SOON)
            receiving.result(SOON)
        near.close()
        far.close()
        return subprocess.CompletedProcess(client.args, client.returncode, out, err)

    def beside(self) -> dict[str, bytes]:
        """All that is not in the tree, but for what a source has itself."""
        found = {}
        for path in sorted(self.top.rglob("*")):
            if not path.is_relative_to(self.tree) and not path.is_relative_to(self.evil):
                kept = path.is_file() and not path.is_symlink()
                found[str(path.relative_to(self.top))] = path.read_bytes() if kept else b""
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, tmp_path / "tree")
    before = made.beside()
    yield made
    assert made.beside() == before
    assert not (Path("/") / "pwned").exists()


HERE = "target::tree"
WRITES = {
    "a parent": ("-a", "{evil}/", f"{HERE}/../outside/"),
    "parents": ("-a", "{evil}/", f"{HERE}/../../../../../../{{outside}}/"),
    "an absolute path": ("-a", "{evil}/file", f"{HERE}/{{outside}}/secret"),
    "through a link": ("-a", "{evil}/file", f"{HERE}/out/secret"),
    "through a link by parents": ("-a", "{evil}/file", f"{HERE}/far/secret"),
    "through a link that is kept": ("-aK", "--inplace", "{evil}/", f"{HERE}/out/"),
    "through a kept link by parents": ("-aK", "--inplace", "{evil}/", f"{HERE}/far/"),
    "removing what is behind": ("-aK", "--delete", "{evil}/", f"{HERE}/out/"),
    "names with parents": ("-aR", "{evil}/./../outside/secret", f"{HERE}/"),
    "a scratch directory": ("-a", "--temp-dir=../../outside", "{evil}/", f"{HERE}/"),
    "a partial directory": ("-a", "--partial-dir=/../outside", "{evil}/", f"{HERE}/"),
    "a backup directory": ("-ab", "--backup-dir=../outside", "{evil}/", f"{HERE}/"),
    "a log": ("-a", "-M--log-file={outside}/log", "{evil}/", f"{HERE}/"),
    "a copy of what is beside": ("-a", "--copy-dest=/../outside", "{evil}/", f"{HERE}/"),
    "a file list there": ("-a", "--files-from=:/../outside/secret", "{evil}/", f"{HERE}/"),
    "another module": ("-a", "{evil}/", "target::evil/"),
    "a module by its path": ("-a", "{evil}/", "target::{outside}/"),
}


@pytest.mark.parametrize("way", WRITES)
def test_nothing_is_written_beside_the_tree(world: World, way: str) -> None:
    """What is done at all is done in the tree: the world's own end looks at the rest."""
    words = [word.format(evil=world.evil, outside=world.outside) for word in WRITES[way]]
    world.rsync(*words)
    assert (world.outside / "secret").read_bytes() == SECRET
    assert (world.tree / "own").exists() or "--delete" in words


READS = {
    "a parent": (f"{HERE}/../outside/secret",),
    "an absolute path": (f"{HERE}/{{outside}}/secret",),
    "through a link": ("-L", f"{HERE}/out/secret"),
    "the link's content": ("-L", f"{HERE}/out"),
    "links below": ("-rL", f"{HERE}/"),
    "what all can read": (f"{HERE}/../../../../../../../etc/hostname",),
}


@pytest.mark.parametrize("way", READS)
def test_nothing_is_read_beside_the_tree(world: World, way: str) -> None:
    words = [word.format(outside=world.outside) for word in READS[way]]
    loot = world.evil / "loot"
    loot.mkdir()
    world.rsync(*words, f"{loot}/")
    taken = [path for path in loot.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in taken if path.read_bytes() not in (b"own\n",)]


def test_the_tree_itself_is_written(world: World) -> None:
    """Or else the others would pass for nothing."""
    done = world.rsync("-a", f"{world.evil}/", f"{HERE}/")
    assert done.returncode == 0, done.stderr
    assert (world.tree / "file").read_bytes() == b"evil\n"


def test_one_module_is_there(world: World) -> None:
    done = world.rsync("target::")
    assert [line.split()[0] for line in done.stdout.splitlines() if line.strip()] == [b"tree"]


@pytest.mark.parametrize("inplace", [(), ("--inplace",)], ids=["by another file", "in place"])
def test_a_device_comes_to_be_and_is_not_written_through(world: World, inplace: tuple[str, ...]) -> None:
    """Whiteouts of overlays are devices, so that they may come; what a device is of is never reached by the daemon."""
    os.mknod(world.evil / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero, which nothing is written to
    assert world.rsync("-aD", f"{world.evil}/", f"{HERE}/").returncode == 0
    seen = (world.tree / "device").lstat()
    assert stat.S_ISCHR(seen.st_mode) and seen.st_rdev == os.makedev(1, 5)
    done = world.rsync("-a", "-M--write-devices", f"{world.evil}/file", f"{HERE}/device")
    assert done.returncode == REFUSED
    assert stat.S_ISCHR((world.tree / "device").lstat().st_mode)
    # A plain file in its place takes its place.
    world.rsync("-a", *inplace, f"{world.evil}/file", f"{HERE}/device")
    seen = (world.tree / "device").lstat()
    assert stat.S_ISCHR(seen.st_mode) or (world.tree / "device").read_bytes() == b"evil\n"


def test_a_fifo_does_not_hold_the_daemon_up(world: World) -> None:
    os.mkfifo(world.tree / "file")
    world.rsync("-a", "--inplace", f"{world.evil}/", f"{HERE}/")
    assert stat.S_ISFIFO((world.tree / "file").lstat().st_mode) or (world.tree / "file").read_bytes() == b"evil\n"


INJECTED = "x\nuse chroot = no\n[evil]\npath = /\nread only = no\n[rest]\nlist = no"


@pytest.mark.parametrize("name", [INJECTED, "%HOME%", "end\\", " spaces ", "x # y", "é\udcff"], ids=repr)
def test_a_tree_whose_path_would_be_configuration(tmp_path: Path, name: str) -> None:
    made = World(tmp_path, Path(f"{tmp_path}/{name}"))
    before = made.beside()
    assert [line.split()[0] for line in made.rsync("target::").stdout.splitlines() if line.strip()] == [b"tree"]
    done = made.rsync("-a", f"{made.evil}/", f"{HERE}/")
    assert done.returncode == 0, done.stderr
    assert (made.tree / "file").read_bytes() == b"evil\n"
    made.rsync("-a", f"{made.evil}/", f"target::evil{tmp_path}/outside/")
    assert made.beside() == before
