"""What CRIU's, runc's and the engine's words mean."""

from __future__ import annotations

import re

import pytest

from phaul import diagnosis

# Lines as their programs write them, and a word of the cause and of the remedy that must be told.
LINES = {
    "Can't dump file 7 of that type [600] (unknown /anon_inode:[io_uring])": ("io_uring", "seccomp"),
    "Can't dump file 5 of that type [20666] (chr 10:229)": ("Descriptor 5 .*device", "without that device"),
    "Can't dump file 12 of that type [100600] (unknown memfd:secret)": ("Descriptor 12 .*memfd:secret", "Close it"),
    "tty: Found dangling tty with sid 0 pgid 0 (pts) on peer fd 0.": ("terminal", "without -t"),
    "A session leader of 4711(35) is outside of its pid namespace": ("Process 35 .*docker exec", "shows it as 4711"),
    "File usr/lib/libc.so.6 has bad size 1234 (expect 1235)": ("usr/lib/libc.so.6", "--copy-binds"),
    "File srv/app has bad build-ID": ("srv/app", "the same on both hosts"),
    "File srv/app has bad mode 0100755 (expect 0100750)": ("srv/app", "the same on both hosts"),
    "inet: Can't bind inet socket (id 12): Cannot assign requested address": ("bound", "same subnet"),
    "Can't bind inet socket back: Cannot assign requested address": ("bound", "0.0.0.0"),
    "inet: In-flight connection (l) for 1234": ("arriving", "Try again"),
    "inet: Connected TCP socket, consider using --tcp-established option.": ("established", "--tcp"),
    "unix: Can't dump half of stream unix connection.": ("Unix socket", "cannot move"),
    "unix: External socket is used. Consider using --ext-unix-sk option.": ("Unix socket", "End that connection"),
    "netlink: The socket has data to read": ("netlink", "Try again"),
    "mnt: Mount 130 ./dev/shm (master_id: 20 shared_id: 0) has unreachable sharing. Try --enable-external-masters.": (
        "mount",
        "rprivate",
    ),
    "mnt: 77:./data doesn't have a proper root mount": ("mount", "volume"),
    "mnt: FS mnt ./net dev 0x2f root / unsupported id 61": ("file system", "Unmount"),
    "Can't dump ghost file /tmp/big of 3221225472 size, increase limit": ("3221225472", "close /tmp/big"),
    "Can't create link-remap file for /data/x": ("removed file", "close the file"),
    "fsnotify: \tCan't find suitable path for handle (dev 0x801 ino 0x3ae): -2": ("watches", "polling"),
    "lsm: can't write lsm profile -2": ("profile", "apparmor_parser"),
    "cpu: CPU instruction capabilities do not match run time": ("processor", "newer processor"),
    "Can't dump nested pid namespace for 77": ("namespaces of its own", "End it"),
    "compel: Can't seize task 99: Operation not permitted": ("traces", "strace"),
    "Can't get rlimit 0: Operation not permitted": ("limits", "CAP_SYS_RESOURCE"),
    "Can't get 1:16 opt: Protocol not available": ("too old", "CRIU 4.2"),
    "uffd: Failed to get uffd: Function not implemented": ("userfaultfd", "--mode stopcopy"),
    "iptables-restore failed": ("connections back", "nftables"),
    "Unable to write 4096 bytes: No space left on device": ("disk is full", "Make room"),
    "Can't mmap 4294967296 bytes: Cannot allocate memory": ("memory", "--memory"),
    "Pid 77 mismatch (got 78)": ("process id", "Try again"),
    "Can't open file srv/data on restore: No such file or directory": ("srv/data", "--copy-binds"),
    "cg: Can't mkdir /sys/fs/cgroup/x: Permission denied": ("cgroups", "docker info"),
    "Timeout reached. Try to interrupt: 10": ("in time", "ps -eo"),
    "failed to create task: bind-mount /proc/0/ns/net -> /run/x: no such file or directory": ("runtime", "setup"),
    "unknown or invalid runtime name: phaul": ("runtime", "p.haul-service setup"),
    "inet: BUG! Unknown proto 132": ("socket of a kind", "Close it"),
    "selinux: Failed to set label: Permission denied": ("SELinux", "container-selinux"),
    "seccomp: Can't restore filter: Invalid argument": ("seccomp", "--feature seccomp"),
    "Unable to wait AIO completion": ("asynchronous", "Try again"),
    "driver failed: Bind for 0.0.0.0:80 failed: port is already allocated": ("port", "ss -ltnp"),
}


@pytest.mark.parametrize("line", LINES)
def test_cause_and_remedy(line: str) -> None:
    known = diagnosis.of(line)
    assert known, line
    cause, remedy = LINES[line]
    assert re.search(cause, known.cause) and re.search(remedy, known.remedy), known
    sentence, said = diagnosis.told("CRIU could not dump it", line)
    assert sentence == f"CRIU could not dump it. {known}"
    assert said == f"It said: {line}".replace("\t", " ")
    assert all(part.endswith(".") and "{" not in part for part in (known.cause, known.remedy))


def test_each_row_is_met_by_a_line() -> None:
    told = [diagnosis.of(line) for line in LINES]
    for words, cause, _ in diagnosis.TABLE:
        shape = re.sub(r"\\\{\d\\\}", ".*", re.escape(cause))
        assert any(known and re.fullmatch(shape, known.cause) for known in told), words


@pytest.mark.parametrize("line", ["magic doesn't match", "", "type NOTIFY errno 0", "make some room"])
def test_what_is_not_known_is_told_as_it_is(line: str) -> None:
    assert diagnosis.of(line) is None
    assert diagnosis.told("It failed", line) == (f"It failed: {line}", "")
