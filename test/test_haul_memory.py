"""Memory on its way in each mode: all of it arrives, once, and on no disk."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from faults import Halt, at_point, ended
from hauling import haul, left, refused, settled, state, summary, wait_for
from lab import Done, Host, Lab, images, workloads
from lab.service import child_of

MIB = 1 << 20
PROBE = 2 * MIB  # at most so much is sent to see how fast the link is
WORK = "/var/lib/phaul/work"
# Several tasks, one of them ended and not waited for, a pipe between two of them.
FAMILY = "/bin/sleep 1000 & /bin/sleep 1001 | /bin/cat & /bin/sleep 0.1 & exec ticker"
TASKS = ["S cat", "S sleep", "S sleep", "S ticker", "Z sleep"]


def moved(a: Host, b: Host, *options: str, name: str = "hog") -> Done:
    """A haul that goes well. Raises AssertionError with what the pager has to say where it does not."""
    done = haul(a, "docker", name, b.ip, *options, check=False)
    said = b.run("sh", "-c", "tail -n 20 $(ls -t /var/log/phaul/*/pager.log | head -n 1)", check=False).out
    assert done.code == 0, f"{done.out}{done.err}{said}"
    return done


def whole(a: Host, b: Host, name: str = "hog") -> None:
    """It goes on at b, has seen all of its memory there, and none of it was ever wrong."""
    done = int(workloads.lines(a, name)[-1][3])
    wait_for(lambda: int(workloads.lines(b, name)[-1][3]) > done + 1, "a look at all of the memory")
    workloads.check_counter(workloads.ticks(b, name))
    workloads.check_memory(b, name)
    assert state(a, name) == "exited"


def received(host: Host) -> int:
    """Bytes that have come in by the host's network."""
    line = next(line for line in host.proc("net/dev").splitlines() if "eth0:" in line)
    return int(line.split()[1])


@pytest.mark.parametrize("mode", ["auto", "stopcopy", "postcopy"])
def test_all_of_it_arrives(a: Host, b: Host, mode: str) -> None:
    for host in (a, b):
        images.load(host, "memhog")
    rest = {host.name: settled(host) for host in (a, b)}
    workloads.memhog(a, "hog", mib=64)
    before = received(b)
    said = summary(moved(a, b, "--mode", mode))
    assert received(b) - before < 1.05 * 64 * MIB + PROBE
    whole(a, b)
    assert 64 * MIB < said.bytes["memory"] < 1.05 * 64 * MIB
    for host in (a, b):
        host.docker("rm", "-f", "hog")
        assert left(host, rest[host.name]) == []


@pytest.mark.parametrize("mode", ["auto", "postcopy"])
def test_memory_that_changes_all_the_time_arrives(a: Host, b: Host, mode: str) -> None:
    workloads.memhog(a, "hog", mib=24, hot_mib=24)
    moved(a, b, "--mode", mode)
    whole(a, b)


def test_mappings_that_change_while_memory_is_missing(a: Host, b: Host) -> None:
    workloads.shifter(a, "hog", mib=48)
    done = moved(a, b, "--mode", "postcopy", "--bandwidth", "16M", "--compress", "none")
    assert seconds_of(done, "post-copy") > 1
    whole(a, b)
    assert b.run("docker", "logs", "hog").err == ""


def test_zeros_are_not_sent(a: Host, b: Host) -> None:
    """Memory that was written to, and is zero all the same."""
    a.docker("run", "-d", "--name", "zeros", "busybox", "sh", "-c", "dd if=/dev/zero bs=100M count=1 | sleep 1000")
    wait_for(lambda: memory(a, "zeros") > 95 * MIB, "100 MiB of zeros")
    for mode in ("stopcopy", "postcopy"):
        before = received(b)
        said = summary(moved(a, b, "--mode", mode, name="zeros"))
        assert said.bytes["memory"] < 2 * MIB
        assert received(b) - before < 4 * MIB + PROBE
        assert memory(b, "zeros") > 95 * MIB
        b.docker("rm", "-f", "zeros")
        a.docker("start", "zeros")
        wait_for(lambda: memory(a, "zeros") > 95 * MIB, "100 MiB of zeros again")


def memory(host: Host, name: str) -> int:
    """Bytes in memory of the biggest of the container's processes."""
    sizes = host.run("docker", "top", name, "-eo", "pid,rss", check=False).out.splitlines()[1:]
    return max((int(line.split()[1]) << 10 for line in sizes), default=0)


def largest(host: Host) -> int:
    """Bytes of the biggest file in P.Haul's work directories."""
    return max((path.stat().st_size for path in host.path(WORK).rglob("*") if path.is_file()), default=0)


@pytest.mark.parametrize("mode", ["auto", "postcopy"])
def test_memory_is_on_no_disk(a: Host, b: Host, mode: str) -> None:
    workloads.memhog(a, "hog", mib=64)
    point = "before=phaul.iters:Verify" if mode == "auto" else "phase=release"
    with Halt(a) as halt:
        command = (*at_point("p.haul", (point, halt.word)), "docker", "hog", b.ip, "--mode", mode, "--keep-images")
        hauling = a.popen(*command, stdout=-1, stderr=-1)
        halt.reached(hauling)
        assert 0 < largest(a) < 2 * MIB
        assert 0 < largest(b) < 2 * MIB
        halt.go()
        assert ended(hauling).code == 0
    assert 0 < largest(a) < 2 * MIB
    assert largest(b) == 0
    whole(a, b)


def seconds_of(done: Done, phase: str) -> float:
    """How long the phase lasted, as its line says. Raises AssertionError where there is no such line."""
    found = re.search(rf"^{phase} +([\d.]+) s(  [\d.]+ \w+)?$", done.out, re.MULTILINE)
    assert found, done.out
    return float(found[1])


def test_a_limit_of_the_downtime(a: Host, b: Host) -> None:
    """Without one it stands still until 48 MiB have come at 16 MiB a second."""
    workloads.memhog(a, "hog", mib=48)
    done = moved(a, b, "--mode", "stopcopy", "--max-downtime", "1500", "--bandwidth", "16M")
    said = summary(done)
    assert 1 < said.downtime < 2.5 * b_slowness(b)
    assert seconds_of(done, "memory") > 0.1
    assert seconds_of(done, "post-copy") > 0.3
    whole(a, b)
    assert workloads.downtime(workloads.ticks(b, "hog")) < 3 * b_slowness(b)


@pytest.mark.parametrize("mode", ["auto", "precopy"])
def test_memory_goes_before_the_freeze(a: Host, b: Host, mode: str) -> None:
    """48 MiB at 16 MiB a second, of which a MiB changes all the time; whichever way the kernel allows."""
    workloads.memhog(a, "hog", mib=48, hot_mib=1)
    done = moved(a, b, "--mode", mode, "--bandwidth", "16M")
    assert seconds_of(done, "pre-copy") > 2.5
    assert "round 2" in done.out
    assert summary(done).downtime < 1.5 * b_slowness(b)
    whole(a, b)


def b_slowness(host: Host) -> float:
    return 1.0 if not host.far else 3.0


def test_what_is_told(a: Host, b: Host) -> None:
    workloads.memhog(a, "hog", mib=16)
    done = moved(a, b, "--mode", "stopcopy", "--bandwidth", "16M")
    assert seconds_of(done, "memory") > 0.5
    assert "post-copy" not in "".join(line.split(" ")[0] for line in done.out.splitlines())
    for phase in ("check", "prepare", "sync", "freeze", "restore", "release", "finish"):
        seconds_of(done, phase)
    assert summary(done).downtime > 0.7


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--mode", "quick"), "usage"),
        (("--max-downtime", "0"), "usage"),
        (("--max-downtime", "1.5"), "usage"),
        (("--max-downtime", "-1"), "usage"),
        (("--max-downtime", "soon"), "usage"),
        (("--bandwidth", "fast"), "bad-bandwidth"),
        (("--bandwidth", "0"), "bad-bandwidth"),
        (("--postcopy-timeout", "x"), "usage"),
        (("--postcopy-timeout", "-5"), "usage"),
    ],
)
def test_bad_values(host_a: Host, options: tuple[str, ...], code: str) -> None:
    refused(haul(host_a, "docker", "x", "10.0.0.1", *options, check=False), code, 2)


@pytest.mark.parametrize("mode", ["auto", "stopcopy", "postcopy"])
def test_with_the_hosts_network(a: Host, b: Host, mode: str) -> None:
    """CRIU shares it, and what it listens on there others could reach: it listens on nothing."""
    workloads.memhog(a, "hog", "--network", "host", mib=16)
    with Halt(a) as halt:
        command = (*at_point("p.haul", ("phase=restore", halt.word)), "docker", "hog", b.ip, "--mode", mode)
        hauling = a.popen(*command, stdout=-1, stderr=-1)
        halt.reached(hauling)
        assert a.run("ss", "-Hltnp").out == ""
        halt.go()
        assert ended(hauling).code == 0
    whole(a, b)


@pytest.mark.parametrize("mode", ["auto", "postcopy"])
def test_many_tasks(a: Host, b: Host, mode: str) -> None:
    a.docker("run", "-d", "--name", "many", "busybox", "sh", "-c", FAMILY)
    wait_for(lambda: commands(a, "many") == TASKS, "all of its tasks")
    moved(a, b, "--mode", mode, name="many")
    wait_for(lambda: commands(b, "many") == TASKS, "all of its tasks at b")  # one may be at work just now
    seen = workloads.wait_ticks(b, "many", workloads.ticks(a, "many")[-1][0] + 5)
    workloads.check_counter(seen)


def commands(host: Host, name: str) -> list[str]:
    """State and name of every task in the container, those that ended and were not waited for too."""
    found = host.docker("exec", name, "ps", "-o", "stat,comm").splitlines()[1:]
    return sorted(f"{line.split()[0][0]} {line.split()[1]}" for line in found if line.split()[1] != "ps")


def test_a_limit_of_the_containers_memory(a: Host, b: Host) -> None:
    workloads.memhog(a, "hog", "--memory", "48m", "--memory-swap", "48m", mib=40)
    moved(a, b, "--mode", "postcopy")
    whole(a, b)


def test_the_programs_memory(served: Lab) -> None:
    """512 MiB go past p.haul, its service and the pager; none of them keeps much."""
    a, b = served.hosts
    workloads.memhog(a, "hog", mib=512)
    keeps_less_than(96 * MIB, a, b)


def keeps_less_than(most: int, a: Host, b: Host, *options: str) -> None:
    """No program of P.Haul's ever holds so many bytes while hog is hauled."""
    with Halt(a) as halt:
        command = (*at_point("p.haul", ("phase=finish", halt.word)), "docker", "hog", b.ip, *options)
        hauling = a.popen(*command, stdout=-1, stderr=-1)
        halt.reached(hauling)
        assert peak(child_of(hauling)) < most
        for host in (a, b):
            for process in ours(host):
                assert peak(process) < most
        halt.go()
        assert ended(hauling).code == 0


def ours(host: Host) -> list[int]:
    """The pids, as this machine sees them, of P.Haul's processes in the host."""
    spaces = Path(f"/proc/{host.pid}/ns/pid").readlink()
    found = []
    for process in Path("/proc").glob("[1-9]*"):
        try:
            if (process / "ns/pid").readlink() == spaces and b"haul" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def peak(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) << 10 if found else 0
