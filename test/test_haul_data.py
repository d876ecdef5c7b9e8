"""Every byte and every attribute of the writable layer, the volumes and the copied bind mounts arrives."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hauling import haul, inspect, state, summary, wait_for
from lab import Host, Lab, images
from lab.workloads import counter, file_in, ticks, wait_ticks

MIB = 1 << 20
SETUID_SHELL = 0o4755
# What the engine makes at the top of every container, and what the counter writes meanwhile.
NOT_OURS = {"dev", "proc", "sys", ".dockerenv", "ticks", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"}

Facts = dict[str, Any]


@pytest.fixture
def srv(lab: Lab) -> Iterator[str]:
    """A directory for bind mounts, there on a alone; to be asked for before the rest, so that it goes after it."""
    lab.host("a").run("mkdir", "-m", "750", "/srv/bound")
    yield "/srv/bound"
    for host in lab.hosts:
        host.run("rm", "-rf", "/srv/bound")


def root(host: Host, name: str) -> Path:
    """The root directory of a running container."""
    return host.path(inspect(host, name)["GraphDriver"]["Data"]["MergedDir"])


def survey(top: Path) -> dict[str, Facts]:
    """All that can be seen of every file below the directory, and of itself, by path."""
    found: dict[str, Facts] = {}
    inodes: dict[int, str] = {}
    pending = [""]
    while pending:
        name = pending.pop()
        path = os.path.join(os.fsencode(top), os.fsencode(name)) if name else os.fsencode(top)
        info = os.lstat(path)
        if stat.S_ISDIR(info.st_mode):
            inside = (f"{name}/{os.fsdecode(entry)}".lstrip("/") for entry in os.listdir(path))
            pending += sorted((one for one in inside if one not in NOT_OURS), reverse=True)
        found[name] = facts(path, info) | {"same as": inodes.setdefault(info.st_ino, name)}
    return found


def facts(path: bytes, info: os.stat_result) -> Facts:
    kind = stat.S_IFMT(info.st_mode)
    seen: Facts = {
        "mode": oct(info.st_mode),
        "owner": (info.st_uid, info.st_gid),
        "links": info.st_nlink,
        "device": info.st_rdev,
        "mtime": info.st_mtime_ns,
        "attributes": {name: os.getxattr(path, name, follow_symlinks=False) for name in attributes(path)},
    }
    if kind == stat.S_IFREG:
        content = Path(os.fsdecode(path)).read_bytes()
        seen |= {"size": info.st_size, "content": hashlib.sha256(content).hexdigest()}
        seen["sparse"] = info.st_blocks * 512 < info.st_size // 2
    if kind == stat.S_IFLNK:
        seen["to"] = os.readlink(path)
    return seen


def attributes(path: bytes) -> list[str]:
    return [name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith("trusted.overlay.")]


def differences(before: dict[str, Facts], after: dict[str, Facts]) -> list[str]:
    """One line for each file that came, went or changed."""
    changes = []
    for name in sorted(before.keys() | after.keys()):
        one, two = before.get(name), after.get(name)
        if one is None or two is None:
            changes.append(f"{name!r} {'is missing' if one else 'came'}")
        else:
            changes += [f"{name!r}: {key} {one[key]!r} -> {two.get(key)!r}" for key in one if one[key] != two.get(key)]
    return changes


def fill(top: Path) -> None:
    """One of everything that a file system can hold."""
    top.mkdir()
    (top / "plain").write_bytes(os.urandom(100_000))
    for name in ("with spaces", "with\nnewline", "grün-✓", "-rf", "*", ".hidden", "x" * 255, "back\\slash"):
        (top / name).write_text(name)
    Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe not utf-8")).write_text("bytes")
    (top / ("deep/" * 100)).mkdir(parents=True)
    (top / ("deep/" * 100) / "bottom").write_text("here")
    (top / "hard").hardlink_to(top / "plain")
    (top / "deep" / "hard").hardlink_to(top / "plain")
    with (top / "sparse").open("wb") as sparse:
        sparse.seek(64 * MIB)
        sparse.write(b"end")
    for name, target in (("link", "plain"), ("absolute", "/etc/passwd"), ("dangling", "no/where"), ("up", "../..")):
        (top / name).symlink_to(target)
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "socket", stat.S_IFSOCK | 0o755)
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (top / "empty").touch()
    (top / "empty directory").mkdir()


def mark(top: Path) -> None:
    """Owners, modes, attributes and dates out of the ordinary."""
    for number, name in enumerate(("plain", "fifo", "socket", "link", "empty directory"), start=1):
        os.chown(top / name, 70_000 + number, 4_000_000_000 + number, follow_symlinks=False)
    for name, mode in (("plain", SETUID_SHELL), ("empty", 0o2000), ("empty directory", 0o3777), ("deep", 0o000)):
        (top / name).chmod(mode)
    for name, value in (("user.note", b"a\0b"), ("trusted.note", b"root's"), ("security.note", b"\xff")):
        os.setxattr(top / "sparse", name, value)
        os.setxattr(top / "empty directory", name, value)
    os.setxattr(top / "-rf", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))
    entries = (
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, 1234),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 6, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(top / "*", "system.posix_acl_access", acl)
    os.setxattr(top / "empty directory", "system.posix_acl_default", acl)
    for name in ("plain", "link", "deep", "fifo"):
        os.utime(top / name, ns=(0, 123_456_789_012_345_678), follow_symlinks=False)


def spoil(top: Path) -> None:
    """Remove, replace and change what is the image's."""
    (top / "opt" / "note").unlink()
    (top / "bin" / "acpid").unlink()
    (top / "root").rmdir()
    for path in (top / "opt").iterdir():
        path.unlink()
    (top / "opt").rmdir()
    (top / "opt").mkdir()
    (top / "opt" / "new").write_text("in an opaque directory")
    (top / "var").rmdir()
    (top / "var").write_text("a file now")
    os.chown(top / "bin" / "busybox", 12, 34)
    (top / "etc").chmod(0o711)
    os.setxattr(top / "tmp", "user.note", b"on a directory of the image")


def test_the_writable_layer_arrives(served: Lab) -> None:
    a, b = served.hosts
    for host in served.hosts:
        images.load(host, "busybox-layered")
    a.docker("run", "-d", "--name", "full", "busybox-layered", "ticker")
    wait_ticks(a, "full", 1)
    top = root(a, "full")
    spoil(top)
    fill(top / "all")
    mark(top / "all")
    # `docker cp`, which looks at the ticks, touches the container's root directory: so not before the other look.
    last = ticks(a, "full")[-1][0]
    before = survey(top)
    assert len(before) > 400
    assert before["all/sparse"]["sparse"]
    assert before["all/hard"]["links"] == 3
    haul(a, "docker", "full", b.ip)
    assert differences(before, survey(root(b, "full"))) == []
    wait_ticks(b, "full", last + 10)


def test_what_was_removed_stays_removed_after_a_restart(served: Lab) -> None:
    """The engine mounts the layer anew: whiteouts and opaque marks are real ones."""
    a, b = served.hosts
    for host in served.hosts:
        images.load(host, "busybox-layered")
    a.docker("run", "-d", "--name", "full", "busybox-layered", "ticker")
    wait_ticks(a, "full", 1)
    spoil(root(a, "full"))
    before = survey(root(a, "full"))
    haul(a, "docker", "full", b.ip)
    b.docker("restart", "-t", "0", "full")
    assert differences(before, survey(root(b, "full"))) == []


WRITER = """
mkdir /named/files
i=0
while :; do
    i=$((i + 1))
    echo $i >>/named/log
    echo $i >>/anonymous/log
    echo $i >/named/files/$((i % 40))
    rm -f /named/files/$(((i + 20) % 40))
done
"""


def numbers(host: Host, name: str, path: str) -> list[int]:
    """The numbers in a file of the container, one a line."""
    whole, _, _ = file_in(host, name, path).decode().rpartition("\n")
    return [int(line) for line in whole.splitlines()]


def volume(host: Host, name: str, destination: str) -> Facts:
    """What the engine knows of the volume that is mounted there in a container."""
    (mount,) = (mount for mount in inspect(host, name)["Mounts"] if mount["Destination"] == destination)
    found: Facts = host.engine.get(f"/volumes/{mount['Name']}")
    return found


def changed(one: Facts, two: Facts) -> set[str]:
    """The keys whose values differ."""
    return {key for key in one.keys() | two.keys() if one.get(key) != two.get(key)}


def test_volumes_arrive_while_they_are_written_to(served: Lab) -> None:
    a, b = served.hosts
    a.docker("volume", "create", "--label", "some=label", "data")
    volumes = ("-v", "data:/named", "-v", "/anonymous")
    a.docker("run", "-d", "--name", "writer", *volumes, "busybox", "sh", "-c", WRITER)
    static = a.path(volume(a, "writer", "/named")["Mountpoint"]) / "static"
    fill(static)
    mark(static)
    (static / "big").write_bytes(os.urandom(24 * MIB))
    static.parent.chmod(0o1770)
    os.chown(static.parent, 5, 6)
    before = survey(static)
    wait_for(lambda: len(numbers(a, "writer", "/anonymous/log")) > 100, "a hundred lines")
    said = summary(haul(a, "docker", "writer", b.ip))
    reached = len(numbers(a, "writer", "/named/log"))
    wait_for(lambda: len(numbers(b, "writer", "/anonymous/log")) > reached + 100, "more lines at the target")

    assert said.bytes["volume"] > 24 * MIB
    for log in ("/named/log", "/anonymous/log"):
        seen = numbers(b, "writer", log)
        assert seen == list(range(1, len(seen) + 1))
    mine, theirs = (volume(host, "writer", "/named") for host in served.hosts)
    assert changed(mine, theirs) <= {"CreatedAt", "Mountpoint"}
    assert volume(a, "writer", "/anonymous")["Name"] != volume(b, "writer", "/anonymous")["Name"]
    there = b.path(theirs["Mountpoint"])
    assert differences(before, survey(there / "static")) == []
    info = there.stat()
    assert (oct(info.st_mode), info.st_uid, info.st_gid) == (oct(stat.S_IFDIR | 0o1770), 5, 6)
    b.docker("rm", "-f", "-v", "writer")
    assert [found["Name"] for found in b.engine.get("/volumes")["Volumes"]] == ["data"]


# Each round changes the files through the maps alone, and finds there what the round before has written.
MAPPER = """
import mmap, time
maps = []
for name in ("/inside", "/volume/inside"):
    with open(name, "w+b") as file:
        file.write(bytes(1 << 20))
        file.flush()
        maps.append(mmap.mmap(file.fileno(), 1 << 20))
number = 0
log = open("/ticks", "w", buffering=1)
while True:
    found = {int.from_bytes(one[at:at + 8], "little") for one in maps for at in (0, 1 << 19)}
    log.write(f"{number} {time.time()} {'ok' if found == {number} else found} 0\\n")
    number += 1
    for one in maps:
        for at in (0, 1 << 19):
            one[at:at + 8] = number.to_bytes(8, "little")
    time.sleep(0.002)
"""


# Longer ago than what P.Haul takes for new.
OLD_S = 4


def test_what_was_written_through_a_map_is_not_lost(served: Lab) -> None:
    """On this file system (tmpfs) such writing changes neither the file's size nor its dates."""
    a, b = served.hosts
    for host in served.hosts:
        images.load(host, "apps")
    a.docker("run", "-d", "--name", "map", "-v", "/volume", "apps", "python3", "-c", MAPPER)
    reached = wait_ticks(a, "map", 100)[-1][0]
    mapped = root(a, "map") / "inside"
    wait_for(lambda: time.time() - mapped.stat().st_ctime > OLD_S, "dates that tell nothing")
    assert ticks(a, "map")[-1][0] > reached + 100
    haul(a, "docker", "map", b.ip)
    last = ticks(a, "map")[-1][0]
    wait_ticks(b, "map", last + 100)
    lines = [line.split() for line in file_in(b, "map", "/ticks").decode().rpartition("\n")[0].splitlines()]
    assert [line for line in lines if line[2:] != ["ok", "0"]] == []
    assert [int(line[0]) for line in lines] == list(range(len(lines)))


GHOST = "exec 5>/tmp/ghost; rm /tmp/ghost; i=0; while :; do i=$((i+1)); echo $i >&5; sleep 0.01; done"


def test_an_open_file_that_has_no_name_any_more(served: Lab) -> None:
    a, b = served.hosts
    a.docker("run", "-d", "--name", "ghost", "busybox", "sh", "-c", GHOST)

    def written(host: Host) -> list[int]:
        whole, _, _ = host.docker("exec", "ghost", "cat", "/proc/1/fd/5").rpartition("\n")
        return [int(line) for line in whole.splitlines()]

    wait_for(lambda: len(written(a)) > 20, "twenty lines")
    reached = len(written(a))
    haul(a, "docker", "ghost", b.ip)
    wait_for(lambda: len(written(b)) > reached + 50, "more lines at the target")
    assert written(b)[:50] == list(range(1, 51))
    assert all(later == earlier + 1 for earlier, later in pairwise(written(b)))


def test_a_bind_mount_shows_what_the_target_has_there(srv: str, served: Lab) -> None:
    a, b = served.hosts
    b.run("mkdir", srv)
    for host in served.hosts:
        host.path(f"{srv}/name").write_text(f"of {host.name}")
        host.path(f"{srv}/file").write_text(f"file of {host.name}")
    counter(a, "count", "-v", f"{srv}:/bound:ro", "-v", f"{srv}/file:/etc/file")
    assert a.docker("exec", "count", "cat", "/bound/name", "/etc/file") == "of afile of a"
    said = summary(haul(a, "docker", "count", b.ip))
    assert b.docker("exec", "count", "cat", "/bound/name", "/etc/file") == "of bfile of b"
    assert "bind" not in said.bytes
    assert b.run("docker", "exec", "count", "touch", "/bound/x", check=False).code


def test_bind_mounts_are_copied_where_that_is_asked_for(srv: str, served: Lab) -> None:
    a, b = served.hosts
    top = a.path(srv)
    fill(top / "all")
    mark(top / "all")
    os.chown(top, 7, 8)
    writer = "i=0; while :; do i=$((i+1)); echo $i >>/bound/log; done"
    a.docker("run", "-d", "--name", "bound", "-v", f"{srv}:/bound", "busybox", "sh", "-c", writer)
    before = survey(top / "all")
    wait_for((top / "log").exists, "the first line")
    said = summary(haul(a, "docker", "bound", b.ip, "--copy-binds", "--compress", "none"))
    lines = len((top / "log").read_text().splitlines())
    there = b.path(srv)
    wait_for(lambda: len((there / "log").read_text().splitlines()) > lines + 100, "more lines at the target")
    assert said.bytes["bind"] > 100_000
    assert differences(before, survey(there / "all")) == []
    found = [int(line) for line in (there / "log").read_text().rpartition("\n")[0].splitlines()]
    assert found == list(range(1, len(found) + 1))
    info = there.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o750, 7, 8)
    assert (state(a, "bound"), state(b, "bound")) == ("exited", "running")
