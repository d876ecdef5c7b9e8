"""What changes in a tree while its tasks run, told by the kernel (inotify), so that nobody need look through it.

Through an overlay nothing is told of the files below it, so a writable layer is watched as its tasks
see it: a name there is the name in the layer, image directories included, since a write copies a file
up. Every directory is watched, and every file that has several names, as an event knows but one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phaul import inotify, procfs
from phaul.inotify import Event, Inotify

PROC = procfs.PROC
MAX_NAMES = 20_000
MAX_DIRECTORIES = 100_000
MADE = inotify.CREATE | inotify.DELETE | inotify.MOVED_FROM | inotify.MOVED_TO
# CLOSE_WRITE tells of what was written through a map: the last of those is what closes the file.
TOUCHED = inotify.MODIFY | inotify.CLOSE_WRITE | inotify.ATTRIB
LOST = inotify.DELETE_SELF | inotify.MOVE_SELF
DIRECTORY = MADE | TOUCHED | LOST | inotify.ONLY_DIRECTORIES | inotify.DONT_FOLLOW | inotify.EXCEPT_UNLINKED
LINKED_FILE = TOUCHED | inotify.DELETE_SELF | inotify.DONT_FOLLOW
GONE = (errno.ENOENT, errno.ENOTDIR)


class Doubt(Exception):
    """What has changed is not known for certain: the tree must be looked through. Its text says why."""


@dataclass(frozen=True)
class Changes:
    """Names relative to the tree, "" is its top. `made`: came, went or moved, directories with all that is in them.

    `touched`: the file or directory itself was changed. `linked`: names of files that have several.
    """

    made: frozenset[str]
    touched: frozenset[str]
    linked: frozenset[str]


class Watch:
    """A watch over the tree at `top`, which its tasks see at `seen`; from the end of the constructor on.

    It never fails but comes to doubt, which `take` raises, and then knows nothing any more.
    """

    def __init__(self, top: Path, seen: Path) -> None:
        self._top, self._seen = str(top), str(seen)
        self._lock = threading.Lock()
        self._doubt = ""
        self._directories: dict[int, str] = {}
        self._linked: dict[int, set[str]] = {}
        self._linked_count = 0
        self._made: set[str] = set()
        self._touched: set[str] = set()
        self._inotify: Inotify | None = None
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)
        with self._doubting():
            self._mounts = mounts(seen)
            self._inotify = Inotify()
            self._place("")
            self._thread.start()

    def take(self) -> Changes:
        """What has changed since the last `take`; what is only now on its way, the next gives. Raises Doubt."""
        with self._lock:
            with self._doubting():
                if self._inotify and not self._doubt:
                    self._read(self._inotify)
            if self._doubt:
                raise Doubt(self._doubt)
            linked = frozenset(name for names in self._linked.values() for name in names)
            changes = Changes(frozenset(self._made), frozenset(self._touched), linked)
            self._made, self._touched = set(), set()
        return changes

    def put_back(self, changes: Changes) -> None:
        """The next `take` gives them again."""
        with self._lock:
            self._made |= changes.made
            self._touched |= changes.touched

    @property
    def doubtful(self) -> bool:
        """Whether `take` would raise Doubt."""
        return bool(self._doubt)

    def distrust(self, why: str) -> None:
        """Be in doubt: something is known that no event tells."""
        with self._lock, self._doubting():
            raise Doubt(why)

    def settle(self) -> None:
        """Nothing changes any more: know all that there was."""
        self._stop()
        with self._lock, self._doubting():
            if self._inotify and not self._doubt:
                while self._read(self._inotify):
                    pass
                if mounts(Path(self._seen)) != self._mounts:
                    raise Doubt("something was mounted or unmounted in it")

    def close(self) -> None:
        self._stop()
        if self._inotify:
            self._inotify.close()
            self._inotify = None
        if self._end >= 0:
            os.close(self._end)
            self._end = -1

    def _stop(self) -> None:
        if self._thread.is_alive():
            os.eventfd_write(self._end, 1)
            self._thread.join()

    def _follow(self) -> None:
        """The thread: keep the kernel's queue short until the end."""
        queue = self._inotify
        assert queue
        poll = select.poll()
        for one in (queue.fileno(), self._end):
            poll.register(one, select.POLLIN)
        while not any(ready == self._end for ready, _ in poll.poll()):
            with self._lock:
                if self._doubt:
                    return
                with self._doubting():
                    self._read(queue)

    @contextlib.contextmanager
    def _doubting(self) -> Iterator[None]:
        """What goes wrong in the block is doubt, and frees what is known."""
        try:
            yield
        except (Doubt, OSError) as why:
            self._doubt = _words(why)
            self._made, self._touched, self._directories, self._linked = set(), set(), {}, {}

    def _read(self, queue: Inotify) -> int:
        """How many events there were."""
        count = 0
        for event in queue.read():
            self._take_in(event)
            count += 1
        return count

    def _take_in(self, event: Event) -> None:
        if event.mask & inotify.OVERFLOW:
            raise Doubt("there were more changes at once than the kernel keeps (fs.inotify.max_queued_events)")
        if event.watch in self._linked:
            self._touched |= self._linked[event.watch]
            if event.mask & LOST:
                self._linked_count -= len(self._linked.pop(event.watch))
        elif event.watch in self._directories:
            self._take_in_directory(self._directories[event.watch], event)
        if len(self._made) + len(self._touched) > MAX_NAMES:
            raise Doubt(f"more than {MAX_NAMES} files changed")

    def _take_in_directory(self, directory: str, event: Event) -> None:
        if event.mask & (inotify.UNMOUNT | inotify.IGNORED):
            raise Doubt("something was unmounted in it")
        if event.mask & LOST:
            if not directory:
                raise Doubt("it was moved or removed")
            if event.mask & inotify.DELETE_SELF:
                del self._directories[event.watch]
            return
        name = _joined(directory, event.name) if event.name else directory
        if not event.mask & MADE:
            self._touched.add(name)
            return
        self._made.add(name)
        if event.mask & inotify.IS_DIRECTORY and event.mask & (inotify.CREATE | inotify.MOVED_TO):
            self._place(name)

    def _place(self, directory: str) -> None:
        """Watch a directory and all below it; what is gone meanwhile, of that events tell."""
        pending = [directory]
        while pending:
            name = pending.pop()
            watch = self._add(name, DIRECTORY)
            if watch < 0:
                continue
            self._directories[watch] = name
            if len(self._directories) > MAX_DIRECTORIES:
                raise Doubt(f"it has more than {MAX_DIRECTORIES} directories")
            # Watched first, then listed: what is made in between is seen either way.
            pending += self._subdirectories(name)
            self._find_linked(name)

    def _subdirectories(self, directory: str) -> list[str]:
        """What is mounted on one that tasks see is none of the layer's."""
        found = []
        with _gone_is_nothing(), os.scandir(os.path.join(self._seen, directory)) as entries:
            found = [_joined(directory, entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
        return found if self._seen == self._top else [name for name in found if not self._is_mount(name, directory)]

    def _is_mount(self, name: str, directory: str) -> bool:
        with _gone_is_nothing():
            inner, outer = (os.lstat(os.path.join(self._seen, one)) for one in (name, directory))
            return inner.st_dev != outer.st_dev
        return False

    def _find_linked(self, directory: str) -> None:
        with _gone_is_nothing(), os.scandir(os.path.join(self._top, directory)) as entries:
            for entry in entries:
                with _gone_is_nothing():
                    info = entry.stat(follow_symlinks=False)
                    if has_others(info):
                        self._add_linked(_joined(directory, entry.name))

    def _add_linked(self, name: str) -> None:
        watch = self._add(name, LINKED_FILE)
        if watch < 0:
            return
        names = self._linked.setdefault(watch, set())
        self._linked_count += name not in names
        names.add(name)
        if self._linked_count > MAX_NAMES:
            raise Doubt(f"more than {MAX_NAMES} names in it are of files that have several")

    def _add(self, name: str, mask: int) -> int:
        """The watch's number; -1: there is no such file any more. Raises OSError."""
        assert self._inotify
        with _gone_is_nothing():
            return self._inotify.add(os.path.join(self._seen, name), mask)
        return -1


@contextlib.contextmanager
def _gone_is_nothing() -> Iterator[None]:
    """What was removed or replaced meanwhile is passed over: an event tells of it."""
    try:
        yield
    except OSError as error:
        if error.errno not in GONE:
            raise


def _joined(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _words(why: Exception) -> str:
    if isinstance(why, OSError) and why.errno == errno.ENOSPC:
        return "it has more directories than this host lets a user watch (fs.inotify.max_user_watches)"
    return str(why)


def has_others(info: os.stat_result) -> bool:
    """Whether the file has other names. An overlay's whiteouts share one inode, but nothing else."""
    whiteout = stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
    return info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode) and not whiteout


def mounts(seen: Path) -> list[tuple[str, str]]:
    """Number and place of the mounts in a directory, or of all where it is the root of a task (proc(5), mountinfo).

    Raises Doubt where the root of a task is not the top of an overlay: it has changed its root, so its view is another.
    """
    of_task = seen.parent.parent == PROC and seen.name == "root"
    found = list(procfs.mounts((seen.parent if of_task else PROC / "self") / "mountinfo"))
    if not of_task:
        top = os.path.realpath(seen)
        return [(one.number, one.point) for one in found if Path(one.point).is_relative_to(top)]
    if not any((one.point, one.kind) == ("/", "overlay") for one in found):
        raise Doubt("its first task has another root")
    return [(one.number, one.point) for one in found]
