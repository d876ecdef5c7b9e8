"""What changes in a tree between the live passes and the frozen one arrives, told by the watch alone."""

from __future__ import annotations

import logging
import mmap
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tree_stage import Stage, differences, survey
from tree_storm import ACL

from phaul import fs_haul_subtree, fs_watch
from phaul.errors import HaulFailed
from phaul.fs_changes import Feed, Plan
from phaul.htype import Tree

Change = Callable[[Path], object]
# Ctime tells of nothing in these tests, as on a clock that was set back: what arrives, arrives by events.
NEVER = -1e9
BIG = 1 << 20


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A tree with two of everything: one to change, one to be left alone."""
    top = tmp_path / "here"
    for name in ("deep/er/est", "other", "empty", "full/in"):
        (top / name).mkdir(parents=True)
    for name in ("file", "kept", "deep/er/est/file", "other/kept", "full/one", "full/in/two", "deep/file"):
        (top / name).write_bytes(os.urandom(5000))
    (top / "big").write_bytes(os.urandom(BIG))
    (top / "link").symlink_to("file")
    (top / "hard-1").write_text("hard")
    (top / "other/hard-2").hardlink_to(top / "hard-1")
    (top / "other/hard-3").hardlink_to(top / "hard-1")
    return top


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """Why trees were looked at as a whole, so far."""
    monkeypatch.setattr(fs_haul_subtree, "TICK_SECONDS", NEVER)
    caplog.set_level(logging.INFO, "phaul.fs")
    yield lambda: [line for line in caplog.messages if line.startswith("all of ")]


def stage(tmp_path: Path, here: Path) -> Stage:
    return Stage(tmp_path, Tree(here, "volume", str(here), here))


def arrives(tmp_path: Path, here: Path, change: Change) -> None:
    """All that there is, after a change between the passes."""
    with stage(tmp_path, here) as on:
        on.sync()
        assert differences(survey(here), survey(on.there[0])) == []
        before = survey(here)
        on.freeze(lambda: change(here))
        assert survey(here) != before, "nothing has changed"
        assert differences(survey(here), survey(on.there[0])) == []


def overwrite(path: Path) -> None:
    """With as many bytes, and the date put back."""
    info = path.stat()
    with path.open("r+b") as file:
        file.write(os.urandom(info.st_size))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def replace(path: Path) -> None:
    """By another file of as many bytes, and as old."""
    info = path.stat()
    new = path.with_name("new")
    new.write_bytes(os.urandom(info.st_size))
    os.utime(new, ns=(info.st_atime_ns, info.st_mtime_ns))
    new.rename(path)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def through_map(path: Path) -> None:
    """Its descriptor is closed before it is written, and the map after it."""
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    mapped[:4] = os.urandom(4)
    mapped.close()


def punch(path: Path) -> None:
    subprocess.run(["fallocate", "-p", "-o", "4096", "-l", "65536", path], check=True)


def dated(path: Path) -> None:
    os.utime(path, ns=(1, 123_456_789_000_000_001), follow_symlinks=False)


def other_kind(path: Path) -> None:
    """A directory becomes a file, or the other way round."""
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("a file")
    else:
        path.unlink()
        (path / "in").mkdir(parents=True)
        (path / "in" / "file").write_text("in a directory")


def exchanged(one: Path, two: Path) -> None:
    one.rename(one.with_name("between"))
    two.rename(one)
    one.with_name("between").rename(two)


def nested(top: Path) -> None:
    """Directories that move into each other, and files made in them at each place."""
    (top / "full/in").rename(top / "deep/in")
    (top / "deep/in/a").write_text("a")
    (top / "deep").rename(top / "moved")
    (top / "moved/in/b").write_text("b")
    (top / "moved/in").rename(top / "in")
    (top / "in/c").write_text("c")
    (top / "moved/er/est/file").write_text("d")


def odd(top: Path) -> None:
    for name in ("-rf", "new\nline", "a b", "*", ".x", "#c", ";c", "x" * 255, "back\\slash", "tail ", "..."):
        (top / name).write_text(name)
    Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe")).write_text("bytes")
    (top / "-d\n").mkdir()
    (top / "-d\n" / "-f\n").write_text("in it")


CHANGES: dict[str, Change] = {
    "overwritten": lambda top: overwrite(top / "file"),
    "overwritten deep": lambda top: overwrite(top / "deep/er/est/file"),
    "a few of many bytes": lambda top: append(top / "big"),
    "replaced": lambda top: replace(top / "file"),
    "truncated": lambda top: os.truncate(top / "file", 10),
    "extended": lambda top: os.truncate(top / "file", 100_000),
    "written through a map": lambda top: through_map(top / "file"),
    "a hole": lambda top: punch(top / "big"),
    "mode": lambda top: (top / "file").chmod(0o4711),
    "mode of a directory": lambda top: (top / "deep/er").chmod(0o1711),
    "mode of the top": lambda top: top.chmod(0o711),
    "owner": lambda top: os.chown(top / "file", 70_000, 4_000_000_000),
    "owner of a directory": lambda top: os.chown(top / "empty", 5, 6),
    "owner of a link": lambda top: os.chown(top / "link", 5, 6, follow_symlinks=False),
    "date": lambda top: dated(top / "file"),
    "date of a directory": lambda top: dated(top / "full"),
    "date of the top": dated,
    "attribute": lambda top: os.setxattr(top / "file", "user.x", b"1"),
    "attribute of a directory": lambda top: os.setxattr(top / "full", "trusted.x", b"1"),
    "attribute of the top": lambda top: os.setxattr(top, "user.x", b"1"),
    "acl": lambda top: os.setxattr(top / "file", "system.posix_acl_access", ACL),
    "acl of a directory": lambda top: os.setxattr(top / "full", "system.posix_acl_default", ACL),
    "new": lambda top: (top / "deep/new").write_text("new"),
    "new at the top": lambda top: (top / "new").touch(),
    "new directory": lambda top: (top / "new").mkdir(),
    "new directories": lambda top: (other_kind(top / "file"), (top / "a/b/c").mkdir(parents=True)),
    "in a new directory": lambda top: ((top / "a/b").mkdir(parents=True), (top / "a/b/c").write_text("c")),
    "removed": lambda top: (top / "deep/file").unlink(),
    "removed directory": lambda top: (top / "empty").rmdir(),
    "removed tree": lambda top: shutil.rmtree(top / "full"),
    "removed, and made with less in it": lambda top: (shutil.rmtree(top / "full"), (top / "full").mkdir()),
    "renamed": lambda top: (top / "file").rename(top / "deep/renamed"),
    "renamed over": lambda top: (top / "file").rename(top / "kept"),
    "renamed directory": lambda top: (top / "full").rename(top / "deep/renamed"),
    "renamed directory over": lambda top: (top / "full").rename(top / "empty"),
    "moved in": lambda top: (mkdir_with_file(top.parent / "outside")).rename(top / "came"),
    "moved out": lambda top: (top / "full").rename(top.parent / "went"),
    "nested moves": nested,
    "exchanged": lambda top: exchanged(top / "file", top / "full"),
    "directory to file": lambda top: other_kind(top / "full"),
    "file to directory": lambda top: other_kind(top / "file"),
    "link": lambda top: ((top / "link").unlink(), (top / "link").symlink_to("kept")),
    "link to directory": lambda top: ((top / "link").unlink(), (top / "link").mkdir()),
    "directory to link": lambda top: (shutil.rmtree(top / "full"), (top / "full").symlink_to("deep")),
    "written by another name": lambda top: overwrite(top / "hard-1"),
    "written by one name of two": lambda top: (overwrite(top / "other/hard-2"), (top / "hard-1").unlink()),
    "mode by another name": lambda top: (top / "other/hard-3").chmod(0o400),
    "one name of several is another": lambda top: (top / "hard-1").rename(top / "deep/hard"),
    "one name of several in a directory that moves": lambda top: (top / "other").rename(top / "deep/other"),
    # rsync asks the file for what only a directory has, says so, and does it the second time.
    "directory to one name of several": lambda top: (
        shutil.rmtree(top / "full"),
        os.mkfifo(top / "a fifo"),
        (top / "full").hardlink_to(top / "a fifo"),
    ),
    "no link any more": lambda top: replace(top / "hard-1"),
    "no link any more, and the others written": lambda top: (replace(top / "hard-1"), overwrite(top / "other/hard-2")),
    "new fifo": lambda top: os.mkfifo(top / "fifo"),
    "whiteout": lambda top: os.mknod(top / "gone", 0o20000, 0),
    "whiteout of a directory": lambda top: (shutil.rmtree(top / "full"), os.mknod(top / "full", 0o20000, 0)),
    "odd names": odd,
}


def mkdir_with_file(path: Path) -> Path:
    path.mkdir()
    (path / "file").write_text("came")
    return path


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_arrives(tmp_path: Path, here: Path, said: Callable[[], list[str]], name: str) -> None:
    arrives(tmp_path, here, CHANGES[name])
    assert said() == []


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_arrives_where_all_is_looked_at(
    tmp_path: Path, here: Path, said: Callable[[], list[str]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fs_watch, "MAX_NAMES", 0)
    monkeypatch.setattr(fs_haul_subtree, "TICK_SECONDS", 2.0)
    arrives(tmp_path, here, CHANGES[name])
    assert len(said()) == 2 and all("0 " in line for line in said()), said()


def test_what_the_last_pass_cannot_copy_is_a_failure(
    tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage(tmp_path, here) as on:
        on.sync()
        # What is in a file cannot be looked for.
        monkeypatch.setattr(Plan, "feed", lambda *_: Feed(("file/x",), ()))
        with pytest.raises(HaulFailed, match="Not a directory"):
            on.freeze()


def test_where_nothing_changed_no_rsync_is_asked(tmp_path: Path, here: Path) -> None:
    """They wait, poised, until they are dismissed; then none is left."""
    with stage(tmp_path, here) as on:
        on.first()
        on.freeze()
        idle = list(on.passes._idle)
        assert [push.complete for push in idle] == [True, True]
        assert [push._client.poll() for push in idle] == [None, None]
        on.passes.dismiss()
        assert all(push._client.wait(20) for push in idle)
        on.freeze(lambda: (here / "file").write_bytes(b"new"))
        assert len(on.passes._idle) == 1
    assert differences(survey(here), survey(on.there[0])) == []
