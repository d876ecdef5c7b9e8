"""The lab itself: two hosts like real ones, and nothing left when they are gone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from lab import (
    CommandTimedOut,
    Host,
    Lab,
    LabError,
    cgroups,
    claims,
    clean,
    images,
    residue,
    service,
    waiting,
    workloads,
)

LAB = Path(__file__).parent / "lab" / "lab"


def machine(instance: str) -> dict[str, object]:
    """What this machine has that an instance could leave behind."""
    return {
        "mounts": Path("/proc/self/mounts").read_text(),
        "links": sorted(os.listdir("/sys/class/net")),
        "named network namespaces": sorted(map(str, Path("/run/netns").glob("*"))),
        "cgroups": cgroups.of_instance(instance),
        "state": (claims.STATE / instance).exists(),
        "namespaces of others": foreign_namespaces(instance),
    }


def foreign_namespaces(instance: str) -> list[str]:
    """Processes that hold a mount of the instance, which each process of a host does."""
    found = []
    for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            if f"/{instance}/" in mounts.read_text():
                found.append(mounts.parent.name)
        except OSError:
            continue
    return found


def reaches(source: Host, target: Host) -> bool:
    return source.run("busybox", "ping", "-c", "1", "-W", "1", target.ip, check=False).code == 0


def test_two_instances_at_once_and_nothing_is_left() -> None:
    names = [f"twin-{number}-{os.getpid()}" for number in (1, 2)]
    before = [machine(name) for name in names]
    faults: list[BaseException] = []

    def use(name: str) -> None:
        try:
            with Lab.up(name) as lab:
                for host in lab.hosts:
                    images.load(host, "busybox")
                    assert host.docker("run", "--rm", "busybox", "hostname", "-i")
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=use, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults
    assert [machine(name) for name in names] == before


def test_a_failed_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"half-{os.getpid()}"
    before = machine(name)

    def fail(_: Lab) -> None:
        raise LabError("on purpose")

    monkeypatch.setattr(Lab, "start_docker", fail)
    with pytest.raises(LabError, match="on purpose"):
        Lab.up(name)
    assert machine(name) == before


def test_an_instance_whose_owner_was_killed_is_swept() -> None:
    name = f"orphan-{os.getpid()}"
    before = machine(name)
    script = f"import os; from lab import Lab; Lab.up({name!r}, docker=False); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script], cwd=LAB.parents[1], check=False, timeout=120)
    assert claims.abandoned(name)
    assert machine(name) != before
    claims.sweep()
    assert machine(name) == before


def test_by_hand() -> None:
    name = f"cli-{os.getpid()}"

    def command(*words: str) -> str:
        argv = [sys.executable, str(LAB), "--instance", name, *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120).stdout

    try:
        assert "0 containers running" in command("up")
        assert command("run", "b", "hostname") == "b\n"
        assert "busybox" in command("run", "a", "docker", "images")
        assert name in command("list")
    finally:
        command("down")
    assert not cgroups.of_instance(name)
    assert subprocess.run(
        [sys.executable, str(LAB), "--instance", name, "status"], check=False, capture_output=True
    ).returncode


def test_a_name_is_taken_once(lab: Lab) -> None:
    with pytest.raises(LabError, match="is up already"):
        Lab.up(lab.instance)
    assert lab.host("a").run("true").code == 0


def test_hosts_reach_each_other_until_the_cable_is_pulled(clean_lab: Lab) -> None:
    a, b = clean_lab.hosts
    assert reaches(a, b)
    assert reaches(b, a)
    clean_lab.cut("b")
    assert not reaches(a, b)
    clean_lab.join("b")
    waiting.until(lambda: reaches(a, b), "the link after join")


def test_a_host_is_a_host_of_its_own(lab: Lab) -> None:
    a = lab.host("a")
    assert a.run("cat", "/proc/1/comm").out == "init\n"
    assert {line.split(":", 2)[2] for line in a.run("cat", "/proc/self/cgroup").out.split()} == {"/"}
    assert a.run("test", "-x", "/opt/phaul/test/lab/lab").code == 0
    assert a.run("touch", "/opt/phaul/x", check=False).code
    assert a.path("/etc/hostname").read_text() == "a\n"


def test_a_container_sees_its_host_not_the_machine(clean_lab: Lab) -> None:
    for host in clean_lab.hosts:
        workloads.counter(host, "count")
        workloads.check_counter(workloads.wait_ticks(host, "count", 5))
        seen = host.docker("exec", "count", "cat", "/proc/self/cgroup")
        assert cgroups.PREFIX not in seen


def test_orphans_are_reaped(lab: Lab) -> None:
    a = lab.host("a")
    orphan = a.run("sh", "-c", "(sleep 0.05 >/dev/null 2>&1 & echo $!)").out.strip()
    waiting.until(lambda: not a.path(f"/proc/{orphan}").exists(), "the orphan to be reaped")


def test_time_over_kills_inside_the_host(lab: Lab) -> None:
    a = lab.host("a")
    with pytest.raises(CommandTimedOut, match="partial words"):
        a.run("sh", "-c", "echo partial words; sleep 54321; true", timeout=0.5)
    waiting.until(lambda: "54321" not in a.run("ps", "-eo", "args").out, "the command to be gone")


def test_what_is_killed_outside_dies_inside(lab: Lab) -> None:
    a = lab.host("a")
    process = a.popen("sleep", "65432")
    waiting.until(lambda: "sleep 65432" in a.run("ps", "-eo", "args").out, "the command")
    process.kill()
    process.wait()
    waiting.until(lambda: "sleep 65432" not in a.run("ps", "-eo", "args").out, "the command to be gone")


def test_signals_and_statuses_pass_through(lab: Lab) -> None:
    a = lab.host("a")
    trap = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done"
    with a.popen("sh", "-c", trap, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(30) == 7
    assert a.run("sh", "-c", "kill -SEGV $$", check=False).code == -11
    assert a.run("no-such-command", check=False).code == 127
    assert a.run("cat", input="words").out == "words"


def test_dockerd_can_be_killed_and_started(clean_lab: Lab) -> None:
    a = clean_lab.host("a")
    a.kill_dockerd()
    assert not a.engine.answers()
    a.start_dockerd()
    a.stop_dockerd()
    assert not a.engine.answers()
    a.start_dockerd()
    assert a.docker("run", "--rm", "busybox", "echo", "well") == "well"


def test_images_are_the_same_on_every_host(clean_lab: Lab) -> None:
    ids = set()
    for host in clean_lab.hosts:
        images.load(host, "busybox-layered")
        ids.add(host.docker("image", "inspect", "-f", "{{.Id}} {{len .RootFS.Layers}}", "busybox-layered"))
    assert len(ids) == 1
    assert ids.pop().endswith(" 3")


def test_memhog_checks_its_memory(clean_lab: Lab) -> None:
    a = clean_lab.host("a")
    workloads.memhog(a, "hog", mib=4, hot_mib=1)
    workloads.wait_ticks(a, "hog", 8)
    assert workloads.check_memory(a, "hog") >= 2


def test_residue_tells_what_came(clean_lab: Lab) -> None:
    a = clean_lab.host("a")
    a.run("mkdir", "-p", "/run/phaul/restore")
    before = residue.residue(a)
    assert residue.diff(before, residue.residue(a)) == []
    workloads.counter(a, "left", "-v", "kept:/kept")
    a.run("mkdir", "-p", "/run/phaul/restore/left")
    changes = "\n".join(residue.diff(before, residue.residue(a)))
    for expected in (
        "/left running",
        "volumes: kept",
        "processes: ticker",
        "files: /run/phaul/restore/left",
        "interfaces: veth*",
    ):
        assert expected in changes
    a.docker("rm", "-f", "left")
    a.docker("volume", "rm", "kept")
    a.run("rm", "-r", "/run/phaul/restore/left")
    assert residue.settled_diff(a, before) == []


def test_a_spoiled_host_is_put_back(lab: Lab) -> None:
    a = lab.host("a")
    a.run("mkdir", "-p", "/run/phaul", "/var/lib/phaul/work")
    before, held = clean.baseline(a), residue.residue(a)
    workloads.counter(a, "frozen", "-v", "some:/some")
    a.docker("pause", "frozen")
    a.docker("network", "create", "spoil")
    a.docker("tag", "busybox", "busybox:other")
    a.run("sh", "-c", "mkdir -p /var/lib/phaul/work/x && mount -t tmpfs x /var/lib/phaul/work/x")
    config = a.path("/etc/docker/daemon.json")
    text = config.read_text()
    config.write_text("{}")
    a.kill_dockerd()
    clean.restore(before)
    assert config.read_text() == text
    assert a.docker("ps", "-aq") == ""
    assert residue.settled_diff(a, held) == []


def test_ssh_from_host_to_host(clean_lab: Lab) -> None:
    a, b = clean_lab.hosts
    service.allow_ssh(a, b)
    assert a.run("ssh", "-o", "BatchMode=yes", "b", "hostname").out == "b\n"
    b.run("pkill", "-x", "sshd")


def test_downtime_and_counter_tell_faults() -> None:
    start = time.time()
    seen = [(1, start), (2, start + 0.01), (3, start + 0.51)]
    workloads.check_counter(seen)
    assert workloads.downtime(seen) == pytest.approx(0.5)
    for broken in ([], seen[1:], [*seen, seen[-1]]):
        with pytest.raises(AssertionError):
            workloads.check_counter(broken)
