"""Random changes to a directory: everything that a program can do to its files, in any order, again from one seed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

NAMES = ("a", "b", "c", "-d", "e\nf", "g h", "\udcff", "ä")
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, 0xFFFFFFFF), (2, 4, 1234), (4, 4, 0xFFFFFFFF), (0x10, 6, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF))
)
PAST = 1_000_000_000


class Storm:
    """Changes below `top`, as the program sees it."""

    def __init__(self, top: Path, seed: int) -> None:
        self.top, self.random = str(top), random.Random(seed)
        self.done: list[str] = []
        self._open: list[int] = []

    def blow(self, times: int) -> None:
        """So many attempts; those that the file system does not allow are none."""
        for _ in range(times):
            act = self.random.choice(ACTS)
            with contextlib.suppress(OSError, shutil.Error):
                act(self)
                self.done.append(act.__name__)

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)
        self._open = []

    def _every(self, *, directories: bool) -> list[str]:
        found = []
        for directory, inside, files in os.walk(self.top):
            found += [os.path.join(directory, name) for name in (inside if directories else files)]
        return sorted(found)

    def a_directory(self) -> str:
        return self.random.choice([self.top, *self._every(directories=True)])

    def a_file(self) -> str:
        return self.random.choice(self._every(directories=False) or [self.top])

    def a_regular(self) -> str:
        """Not what opening would wait at, nor what a symbolic link leads to."""
        files = self._every(directories=False)
        return self.random.choice(
            [one for one in files if os.path.isfile(one) and not os.path.islink(one)] or [self.top]
        )

    def anything(self) -> str:
        return self.random.choice([self.top, *self._every(directories=True), *self._every(directories=False)])

    def a_place(self) -> str:
        return os.path.join(self.a_directory(), self.random.choice(NAMES))

    def content(self) -> bytes:
        return self.random.randbytes(self.random.choice((0, 1, 100, 5000, 70_000)))

    def write(self) -> None:
        path = self.a_place()
        if not os.path.lexists(path) or (os.path.isfile(path) and not os.path.islink(path)):
            Path(path).write_bytes(self.content())

    def append(self) -> None:
        with open(self.a_regular(), "ab") as file:
            file.write(self.content())

    def write_through_descriptor(self) -> None:
        """Opened once, perhaps under another name, or before any watch."""
        if not self._open or self.random.random() < 0.3:
            self._open.append(os.open(self.a_regular(), os.O_RDWR))
        if self._open:
            os.pwrite(self.random.choice(self._open), self.content(), self.random.randrange(9000))

    def overwrite_unseen(self) -> None:
        """As long as before, and its date put back."""
        path = self.a_regular()
        info = os.stat(path, follow_symlinks=False)
        with open(path, "r+b") as file:
            file.write(self.random.randbytes(info.st_size))
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))

    def replace_unseen(self) -> None:
        """By another file as long and as old."""
        path = self.a_regular()
        info = os.stat(path, follow_symlinks=False)
        new = path + "~"
        with open(new, "wb") as file:
            file.write(self.random.randbytes(info.st_size))
        os.utime(new, ns=(info.st_atime_ns, info.st_mtime_ns))
        os.rename(new, path)

    def truncate(self) -> None:
        os.truncate(self.a_regular(), self.random.randrange(3000))

    def punch(self) -> None:
        descriptor = os.open(self.a_regular(), os.O_RDWR)
        try:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.ftruncate(descriptor, 80_000)
        finally:
            os.close(descriptor)

    def change_mode(self) -> None:
        os.chmod(
            self.a_directory() if self.random.random() < 0.5 else self.a_regular(),
            self.random.choice((0o600, 0o755, 0o1777, 0o4711)),
        )

    def change_owner(self) -> None:
        os.chown(self.anything(), self.random.randrange(5), self.random.randrange(5), follow_symlinks=False)

    def change_date(self) -> None:
        date = PAST + self.random.randrange(1000)
        os.utime(self.anything(), ns=(date, date * 1_000_000_007), follow_symlinks=False)

    def set_attribute(self) -> None:
        name = self.random.choice(("user.note", "trusted.note"))
        os.setxattr(self.anything(), name, self.random.randbytes(5), follow_symlinks=False)

    def remove_attribute(self) -> None:
        path = self.anything()
        names = os.listxattr(path, follow_symlinks=False)
        os.removexattr(path, self.random.choice(names or ["user.none"]), follow_symlinks=False)

    def set_acl(self) -> None:
        path = self.random.choice((self.a_directory, self.a_regular))()
        os.setxattr(path, "system.posix_acl_default" if os.path.isdir(path) else "system.posix_acl_access", ACL)

    def remove(self) -> None:
        os.unlink(self.a_file())

    def remove_tree(self) -> None:
        path = self.a_directory()
        if path != self.top:
            shutil.rmtree(path)

    def make_directory(self) -> None:
        os.mkdir(self.a_place())

    def make_tree(self) -> None:
        path = self.a_place()
        os.makedirs(os.path.join(path, "in", "deeper"))
        Path(path, "in", "file").write_bytes(self.content())
        Path(path, "in", "deeper", "file").write_bytes(self.content())

    def rename(self) -> None:
        os.rename(self.anything(), self.a_place())

    def exchange(self) -> None:
        """Two names, so that a file stands for a directory, or the other way round."""
        one, two = self.anything(), self.anything()
        if self.top not in (one, two) and not f"{one}/".startswith(f"{two}/") and not f"{two}/".startswith(f"{one}/"):
            os.rename(one, one + "~")
            os.rename(two, one)
            os.rename(one + "~", two)

    def link(self) -> None:
        os.link(self.a_file(), self.a_place(), follow_symlinks=False)

    def link_and_remove(self) -> None:
        path = self.a_file()
        os.link(path, self.a_place(), follow_symlinks=False)
        os.unlink(path)

    def make_symlink(self) -> None:
        path = self.a_place()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.symlink(self.random.choice(("a", "../b", "/etc/passwd", "no")), path)

    def make_special(self) -> None:
        os.mkfifo(self.a_place(), 0o600)

    def make_device(self) -> None:
        os.mknod(self.a_place(), 0o20666, os.makedev(1, 3))


# fmt: off
ACTS: tuple[Callable[[Storm], None], ...] = (
    Storm.write, Storm.append, Storm.write_through_descriptor, Storm.overwrite_unseen, Storm.replace_unseen,
    Storm.truncate, Storm.punch, Storm.change_mode, Storm.change_owner, Storm.change_date, Storm.set_attribute,
    Storm.remove_attribute, Storm.set_acl, Storm.remove, Storm.remove_tree, Storm.make_directory, Storm.make_tree,
    Storm.rename, Storm.exchange, Storm.link, Storm.link_and_remove, Storm.make_symlink, Storm.make_special,
    Storm.make_device,
)
# fmt: on


@contextlib.contextmanager
def overlay(work: Path, seed: int) -> Iterator[tuple[Path, Path]]:
    """The upper directory of an overlay over some files, and where the whole is seen."""
    for name in ("lower", "upper", "work", "merged"):
        (work / name).mkdir()
    with contextlib.closing(Storm(work / "lower", seed)) as below:
        below.blow(60)
    layers = f"lowerdir={work}/lower,upperdir={work}/upper,workdir={work}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, work / "merged"], check=True)
    try:
        yield work / "upper", work / "merged"
    finally:
        subprocess.run(["umount", work / "merged"], check=True)
