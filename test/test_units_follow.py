"""Following a tree: passes that look at nothing, and what makes them look at everything."""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tree_stage import Stage, differences, survey
from tree_storm import overlay

from phaul import docker_checks, fs_changes, fs_haul, fs_watch, tasks_seen
from phaul.fs_changes import Plan
from phaul.fs_watch import Changes, Doubt, Watch
from phaul.htype import Tree
from phaul.inotify import Inotify

NOTHING: frozenset[str] = frozenset()
PASS_BYTES = 4000  # what two passes of rsync say that have nothing to do


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Why trees were looked at as a whole, so far."""
    caplog.set_level(logging.INFO, "phaul.fs")
    return lambda: [line for line in caplog.messages if line.startswith("all of ")]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    top = tmp_path / "here"
    (top / "a/b").mkdir(parents=True)
    for name in ("file", "a/file", "a/b/file"):
        (top / name).write_bytes(os.urandom(5000))
    return top


def stage(here: Path, seen: Path | None = None) -> Stage:
    return Stage(here.parent, Tree(here, "volume", str(here), seen or here))


def test_a_pass_that_has_nothing_to_do_looks_at_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2000):
        (here / f"a/{number:0100}").touch()
    real = os.scandir

    def elsewhere(path: str | int) -> Iterator[os.DirEntry[str]]:
        assert not str(path).startswith(str(here))
        return real(path)

    with stage(here) as on:
        on.first()
        monkeypatch.setattr(os, "scandir", elsewhere)
        assert on.freeze(lambda: (here / "a/file").write_text("x")) < PASS_BYTES
    assert (on.there[0] / "a/file").read_text() == "x"


def test_what_changes_in_a_live_pass_is_compared_by_content_in_the_next(here: Path) -> None:
    """Later no date would tell: what is taken must be copied, or told again."""

    def spoil() -> None:
        info = (here / "file").stat()
        (here / "file").write_bytes(os.urandom(5000))
        os.utime(here / "file", ns=(info.st_atime_ns, info.st_mtime_ns))

    with stage(here) as on:
        on.first()
        spoil()
        on.again()
        assert differences(survey(here), survey(on.there[0])) == []
        assert on.freeze() < PASS_BYTES


def test_what_a_live_pass_could_not_copy_is_told_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage(here) as on:
        on.first()
        (here / "file").write_text("other")
        (here / "a/file").rename(here / "new")
        with monkeypatch.context() as patch:  # to the name of what is in a file, which rsync cannot look for
            patch.setattr(fs_changes.Plan, "feed", lambda *_: fs_changes.Feed((), ("file/x",)))
            on.again()
        assert (on.there[0] / "file").read_bytes() != b"other"
        on.freeze()
    assert (on.there[0] / "file").read_text() == "other" and (on.there[0] / "new").exists()


def mapped(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def test_what_was_written_through_a_map_that_is_open_at_the_end(here: Path) -> None:
    with stage(here) as on, contextlib.ExitStack() as maps:
        on.first()

        def write() -> None:
            maps.enter_context(mapped(here / "file"))[:5] = b"first"
            on.passes._followed[0].take()  # no word of it any more

        on.freeze(write)
        assert (on.there[0] / "file").read_bytes()[:5] == b"first"


def test_what_was_written_through_a_map_that_was_open_when_the_watch_began(tmp_path: Path) -> None:
    """Through an overlay older kernels tell nothing of the end of a map whose descriptor is closed."""
    with overlay(tmp_path, 1) as (upper, merged), Stage(tmp_path, Tree(upper, "rootfs", str(merged), merged)) as on:
        (merged / "mapped").write_bytes(bytes(5000))
        with mapped(merged / "mapped") as before:
            on.first()
            before[:5] = b"first"
        on.passes._followed[0].take()
        on.freeze()
        assert (on.there[0] / "mapped").read_bytes()[:5] == b"first"


def test_a_map_that_came_and_went_on_a_file_that_stays_open(here: Path) -> None:
    """Neither its opening nor its closing is seen; the file's inode tells."""
    with (here / "file").open("r+b") as file, stage(here) as on:
        on.first()

        def write() -> None:
            with mmap.mmap(file.fileno(), 0) as mapped:
                mapped[:5] = b"first"
                mapped.flush()

        on.freeze(write)
        assert differences(survey(here), survey(on.there[0])) == []


DOUBTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "names": (lambda top: [(top / f"{n}").touch() for n in range(60)], "more than 50 files changed"),
    "new directories": (lambda top: new_directory(top, 60), "more than 50 files came"),
    "links": (lambda top: (top / "x").hardlink_to(top / "a/file"), "names that are not known"),
    "links in a new directory": (
        lambda top: ((top / "d").mkdir(), (top / "d/x").hardlink_to(top / "a/file")),
        "names that are not known",
    ),
    "mounted": (lambda top: mounted(top / "a"), "mounted or unmounted"),
}


def new_directory(top: Path, files: int) -> None:
    (directory := top.parent / "outside").mkdir()
    for number in range(files):
        (directory / str(number)).touch()
    directory.rename(top / "new")


def mounted(path: Path) -> None:
    subprocess.run(["mount", "--bind", path / "b", path / "b"], check=True)


@pytest.mark.parametrize("name", DOUBTS)
def test_when_all_is_looked_at(
    here: Path, said: Callable[[], list[str]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fs_watch, "MAX_NAMES", 50)
    monkeypatch.setattr(fs_changes, "MAX_NAMES", 50)
    change, words = DOUBTS[name]
    try:
        with stage(here) as on:
            on.first()
            on.freeze(lambda: change(here))
            assert differences(survey(here), survey(on.there[0])) == []
        assert len(said()) == 1 and words in said()[0]
    finally:
        if name == "mounted":
            subprocess.run(["umount", here / "a/b"], check=True)


def test_a_queue_that_ran_over(here: Path, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Really: nobody reads it, and more happens than the kernel keeps."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    monkeypatch.setattr(Watch, "_follow", lambda _: None)
    with stage(here) as on:
        on.first()

        def busy() -> None:
            for number in range(most + 100):
                os.utime(here / ("file", "a/file")[number % 2])
                os.utime(here / ("file", "a/file")[number % 2], ns=(0, number))
            (here / "new").write_text("after all")

        on.freeze(busy)
        assert differences(survey(here), survey(on.there[0])) == []
    assert len(said()) == 1 and "more changes at once" in said()[0]


def test_after_a_doubt_a_live_pass_begins_to_watch_anew(here: Path, said: Callable[[], list[str]]) -> None:
    with stage(here) as on:
        on.first()
        on.passes._followed[0].watch.distrust("so it is said")
        (here / "a/b/file").write_text("one")
        on.again()
        assert len(said()) == 1 and "so it is said" in said()[0]
        (here / "a/b/new").write_text("two")
        on.freeze()
        assert differences(survey(here), survey(on.there[0])) == []
    assert len(said()) == 1


def test_watches_that_are_used_up(here: Path, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def add(_self: Inotify, _path: str, _mask: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Inotify, "add", add)
    with stage(here) as on:
        on.first()
        on.freeze(lambda: (here / "a/file").write_text("x"))
        assert differences(survey(here), survey(on.there[0])) == []
    assert "fs.inotify.max_user_watches" in said()[0]


def test_a_file_that_is_written_to_by_a_name_that_is_gone(here: Path, said: Callable[[], list[str]]) -> None:
    """Made without a name, then given one: events tell the name that it never had."""
    descriptor = os.open(here / "a", os.O_TMPFILE | os.O_RDWR)
    with contextlib.closing(os.fdopen(descriptor, "wb", buffering=0)) as file, stage(here) as on:
        subprocess.run(["ln", "-L", f"/proc/{os.getpid()}/fd/{descriptor}", here / "a/named"], check=True)
        on.first()
        on.freeze(lambda: file.write(b"unseen"))
        assert (on.there[0] / "a/named").read_bytes() == b"unseen"
    assert "has another name now" in said()[0]


def test_a_file_that_is_written_to_by_a_name_outside(here: Path, said: Callable[[], list[str]]) -> None:
    outside = here.parent / "outside"
    outside.hardlink_to(here / "a/file")

    def write() -> None:
        date = outside.stat().st_mtime_ns
        outside.write_bytes(os.urandom(5000))
        os.utime(outside, ns=(date, date))

    with stage(here) as on:
        on.first()
        on.freeze(write)
        assert (on.there[0] / "a/file").read_bytes() == outside.read_bytes()
    assert "names that are not known" in said()[0]


def test_what_becomes_a_whiteout_under_a_pass_is_forgiven(here: Path) -> None:
    """It cannot be opened, which rsync takes for worse than that it had vanished."""
    words = b"""rsync: [sender] send_files failed to open "/x/diff/a: b": No such device or address (6)
file has vanished: "/x/y"
rsync error: some files/attrs were not transferred (see previous errors) (code 23) at main.c(1412) [sender=3.5.1]
"""
    assert all(fs_haul.OVERTAKEN.match(line) for line in words.splitlines())
    for worse in (
        b'rsync: [sender] send_files failed to open "/x": Permission denied (13)',
        b'rsync: [receiver] rsync_xal_set: lsetxattr("x","user.y") failed: No such file or directory (2)',
        b'rsync: [sender] read errors mapping "/x (6)": Input/output error (5)',
    ):
        assert not fs_haul.OVERTAKEN.match(worse)


@pytest.mark.parametrize("what", ["moved", "removed"])
def test_a_tree_that_is_not_there_any_more(tmp_path: Path, what: str) -> None:
    (tmp_path / "here").mkdir()
    with contextlib.closing(Watch(tmp_path / "here", tmp_path / "here")) as watch:
        watch.take()
        (tmp_path / "here").rmdir() if what == "removed" else (tmp_path / "here").rename(tmp_path / "there")
        watch.settle()
        with pytest.raises(Doubt, match="moved or removed"):
            watch.take()


def test_something_that_is_unmounted(here: Path) -> None:
    mounted(here / "a")
    try:
        watch = Watch(here, here)
    finally:
        subprocess.run(["umount", here / "a/b"], check=True)
    with contextlib.closing(watch):
        watch.settle()
        with pytest.raises(Doubt, match="mounted"):
            watch.take()


def test_what_is_mounted_where_tasks_see_it_is_none_of_the_layer(tmp_path: Path) -> None:
    with overlay(tmp_path, 1) as (upper, merged):
        (merged / "volume").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", merged / "volume"], check=True)
        try:
            (merged / "volume/in").mkdir()
            with contextlib.closing(Watch(upper, merged)) as watch:
                (merged / "volume/in/file").touch()
                (merged / "volume/file").touch()
                watch.settle()
                assert watch.take().made == NOTHING
        finally:
            subprocess.run(["umount", merged / "volume"], check=True)


def test_whiteouts_share_an_inode_but_nothing_else(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    with overlay(tmp_path, 1) as (upper, merged):
        files = [path for path in merged.rglob("*") if path.is_file() and not path.is_symlink()][:4]
        files[0].unlink()
        files[1].unlink()
        with Stage(tmp_path, Tree(upper, "rootfs", "/", merged)) as on:
            on.first()
            on.freeze(lambda: [path.unlink() for path in files[2:]])
            assert differences(survey(upper), survey(on.there[0])) == []
        assert [name for name, seen in survey(upper).items() if "whiteout" in seen] and said() == []


def test_a_directory_that_is_made_while_it_is_placed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Watched first, then listed."""
    real = Inotify.add

    def add(self: Inotify, path: str, mask: int) -> int:
        watch = real(self, path, mask)
        if path.endswith("/a/b"):
            (here / "a/b/late/later").mkdir(parents=True, exist_ok=True)
        return watch

    monkeypatch.setattr(Inotify, "add", add)
    with contextlib.closing(Watch(here, here)) as watch:
        (here / "a/b/late/later/file").touch()
        (here / "a/b/late/later/file").write_text("x")
        watch.settle()
        assert {"a/b/late", "a/b/late/later/file"} <= watch.take().made


def test_what_moved_is_told_of_by_its_new_name_ever_after(here: Path) -> None:
    with contextlib.closing(Watch(here, here)) as watch:
        (here / "a").rename(here / "c")
        watch.settle()
        assert watch.take().made == {"a", "c"}
        (here / "c/b/file").write_text("x")
        watch.settle()
        assert watch.take() == Changes(NOTHING, frozenset({"c/b/file"}), NOTHING)


def test_a_storm_on_one_file_is_one_name(here: Path) -> None:
    with contextlib.closing(Watch(here, here)) as watch, (here / "file").open("wb", buffering=0) as file:
        for number in range(50_000):
            file.write(b"x")
            if number % 2:
                os.utime(here / "a/file")
        watch.settle()
        with contextlib.suppress(Doubt):
            assert watch.take().touched == {"file", "a/file"}


def test_names_whose_directory_is_gone_or_another_thing(here: Path) -> None:
    changes = Changes(frozenset({"file/x/y", "gone/x/y", "a/b/gone"}), frozenset({"file/z", "a/file", ""}), NOTHING)
    feed = Plan(here, changes).feed(["gone/more", "a/b/file"])
    assert feed.made == ("a/b/gone", "file", "gone")
    assert feed.listed == (fs_changes.NO_NAME, "a/b", "a/b/file", "a/file")


def test_a_size_counts_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_bytes(bytes(1 << 20))
    one = docker_checks.size_of(tmp_path)
    (tmp_path / "other").hardlink_to(tmp_path / "deep/file")
    (tmp_path / "link").symlink_to("deep")
    assert 1 << 20 <= docker_checks.size_of(tmp_path) == one < (1 << 20) + (1 << 16)
    assert docker_checks.size_of(tmp_path / "none") == 0


def test_what_this_process_has_open_to_write(tmp_path: Path) -> None:
    names = ("reading", "writing", "both", "gone", "linked")
    for name in names:
        (tmp_path / name).touch()
    with contextlib.ExitStack() as stack:
        for name, mode in zip(names, ("r", "w", "r+", "w", "w"), strict=True):
            stack.enter_context((tmp_path / name).open(mode))
        (tmp_path / "gone").unlink()
        (tmp_path / "linked").rename(tmp_path / "first")
        (tmp_path / "second").hardlink_to(tmp_path / "first")
        (tmp_path / "first").unlink()
        seen = {path: gone for path, gone in tasks_seen.open_to_write(os.getpid()) if str(tmp_path) in path}
    top = str(tmp_path)
    assert seen == {f"{top}/writing": False, f"{top}/both": False, f"{top}/first (deleted)": True}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1 0 0:1 / / rw - overlay o rw", ""),
        ("1 0 0:1 / / rw - tmpfs t rw", "another root"),
        ("1 0 0:1 / /x rw - overlay o rw", "another root"),
    ],
)
def test_the_root_of_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, words: str) -> None:
    monkeypatch.setattr(fs_watch, "PROC", tmp_path)
    (tmp_path / "7").mkdir()
    (tmp_path / "7/mountinfo").write_text(line + "\n2 1 0:2 / /a\\040b rw - tmpfs t rw\n")
    if words:
        with pytest.raises(Doubt, match=words):
            fs_watch.mounts(tmp_path / "7/root")
    else:
        assert fs_watch.mounts(tmp_path / "7/root") == [("1", "/"), ("2", "/a b")]
