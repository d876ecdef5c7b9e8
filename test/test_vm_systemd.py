"""P.Haul on machines that systemd runs: its service as a unit, its runtime registered with a dockerd that is a unit."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hauling import haul, inspect, left, state, wait_for
from lab import Host
from lab.residue import residue
from lab.service import PORT, listening
from lab.spawning import PROJECT
from lab.vm import VmLab
from lab.workloads import check_counter, counter, ticks, wait_ticks

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

UNIT = "p.haul-service.service"
PLACE = f"/usr/local/lib/systemd/system/{UNIT}"
OPTIONS = "/etc/default/p.haul-service"
HALTED = "/run/halted"
# Where the haul is when the unit is killed.
POINT = "state=held"
# Whether system calls are filtered (2, twice) and CAP_SYS_TIME is withheld (0), and what it sees of the host.
IN_SANDBOX = f"""
pid=$(systemctl show --value --property=MainPID {UNIT})
bounds=$(sed -n 's/^CapBnd:\\s*/0x/p' /proc/$pid/status)
echo $(($(sed -n 's/^Seccomp:\\s*//p' /proc/$pid/status) * 2 + (bounds >> 25 & 1)))
nsenter -t $pid -m ls /usr/lib/modules/$(uname -r) >/dev/null 2>&1 && echo seen || echo denied
nsenter -t $pid -m head -c 1 /dev/kmsg >/dev/null 2>&1 && echo seen || echo denied
nsenter -t $pid -m sh -c 'echo >/etc/of-a-test' 2>/dev/null && echo written || echo denied
nsenter -t $pid -m sh -c 'echo >/etc/phaul/of-a-test && rm /etc/phaul/of-a-test' && echo written || echo denied
"""
# Whether a shell in its cgroup can read a disk, and make a device file.
WITH_DEVICES = f"""
echo $$ >/sys/fs/cgroup$(systemctl show --value --property=ControlGroup {UNIT})/cgroup.procs
disk=$(lsblk -dno PATH | head -1)
head -c 1 $disk >/dev/null 2>&1 && echo seen || echo denied
mknod /run/of-a-test c 0 0 && rm /run/of-a-test && echo made || echo denied
"""


def shown(host: Host, what: str) -> str:
    """A property of the unit."""
    return host.run("systemctl", "show", "--value", f"--property={what}", UNIT).out.strip()


def set_up(host: Host) -> None:
    """The unit is there and started, as an administrator would do it."""
    host.put(PLACE, (PROJECT / "phaul" / UNIT).read_bytes())
    host.put(OPTIONS, b"OPTIONS=--allow-bind /srv\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", UNIT)
    wait_for(lambda: listening(host, PORT), "the unit's listening")


@pytest.fixture
def unit(paired: VmLab, clean_lab: VmLab) -> Iterator[VmLab]:
    """b's service is a unit."""
    b = paired.host("b")
    try:
        set_up(b)
        yield paired
    finally:
        b.run("systemctl", "stop", UNIT, check=False, timeout=120)
        paired.host("a").run("rm", "-rf", "/srv/bound")
        b.run(
            "sh",
            "-c",
            f"rm -rf /srv/bound {PLACE} {OPTIONS} /run/systemd/system/{UNIT}.d {HALTED}; systemctl daemon-reload",
        )


def test_a_haul_to_the_unit(unit: VmLab) -> None:
    a, b = unit.hosts
    assert b.run("systemd-analyze", "verify", PLACE).err == ""
    old = counter(a, "count", "-v", "data:/data", "-v", "/srv/bound:/bound", "--restart", "always")
    files = "for f in /data/file /bound/file; do echo kept >$f; chown 7:8 $f; chmod 4755 $f; done"
    a.docker("exec", "count", "sh", "-c", files)
    last = ticks(a, "count")[-1][0]
    haul(a, "docker", "count", b.ip, "--copy-binds")
    check_counter(wait_ticks(b, "count", last + 20))
    assert inspect(b, "count")["Id"] != old
    stats = b.docker("exec", "count", "stat", "-c", "%a %u %g", "/data/file", "/bound/file")
    assert stats.splitlines() == ["4755 7 8"] * 2
    assert b.run("sh", "-c", IN_SANDBOX).out.split() == ["4", "denied", "denied", "denied", "written"]
    assert b.run("sh", "-c", WITH_DEVICES).out.split() == ["denied", "made"]
    # What the engine started for it is no part of the unit: stopping that leaves the container alone.
    b.run("systemctl", "stop", UNIT, timeout=120)
    assert shown(b, "Result") == "success"
    check_counter(wait_ticks(b, "count", ticks(b, "count")[-1][0] + 20))


def test_it_takes_what_its_options_allow(unit: VmLab) -> None:
    a, b = unit.hosts
    a.docker("run", "-d", "--name", "bound", "-v", "/srv/bound:/bound", "busybox", "sleep", "100000")
    b.put(OPTIONS, b"")
    b.run("systemctl", "restart", UNIT, timeout=120)
    wait_for(lambda: listening(b, PORT), "the unit's listening")
    done = haul(a, "docker", "bound", b.ip, "--copy-binds", check=False)
    assert done.code == 3 and "[not-allowed]" in done.err
    assert b.run("test", "-e", "/srv/bound", check=False).code == 1


def test_killed_in_mid_haul_it_is_started_again(unit: VmLab) -> None:
    a, b = unit.hosts
    container = counter(a, "count")
    rest = residue(a), residue(b)
    halt_at(b, POINT)
    began = int(shown(b, "NRestarts"))
    under_way = a.popen("p.haul", "docker", "count", b.ip)
    try:
        wait_for(lambda: not b.run("test", "-e", HALTED, check=False).code, "the haul's coming to the point")
        forget_halt(b)
        b.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", UNIT)
        assert under_way.wait(300) == 7
    finally:
        under_way.kill()
        under_way.wait()
    wait_for(lambda: int(shown(b, "NRestarts")) == began + 1 and listening(b, PORT), "the unit's coming again")
    assert (state(a, "count"), inspect(a, "count")["Id"]) == ("running", container)
    check_counter(wait_ticks(a, "count", ticks(a, "count")[-1][0] + 5))
    assert [left(host, was, timeout=60) for host, was in zip(unit.hosts, rest, strict=True)] == [[], []]
    haul(a, "docker", "count", b.ip)
    assert (state(a, "count"), state(b, "count")) == ("exited", "running")
    check_counter(wait_ticks(b, "count", ticks(b, "count")[-1][0] + 5))


def halt_at(host: Host, point: str) -> None:
    """Start the unit anew, so that it comes to a halt at the point."""
    words = f'{point} "run=touch {HALTED}; sleep 600"'
    start = f"/usr/bin/python3 /opt/phaul/test/at_point.py {words} -- /usr/local/bin/p.haul-service"
    host.put(f"/run/systemd/system/{UNIT}.d/halt.conf", f"[Service]\nExecStart=\nExecStart={start}\n".encode())
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", UNIT, timeout=120)
    wait_for(lambda: listening(host, PORT), "the unit's listening")


def forget_halt(host: Host) -> None:
    """The next start is a plain one."""
    host.run("sh", "-c", f"rm -rf /run/systemd/system/{UNIT}.d {HALTED}; systemctl daemon-reload")


def test_setup_registers_the_runtime_by_reload(paired: VmLab, clean_lab: VmLab) -> None:
    a = paired.host("a")
    a.put("/etc/docker/daemon.json", json.dumps({"storage-driver": "overlay2", "debug": False}).encode())
    a.dockerd.stop()
    a.dockerd.start()
    assert "phaul" not in runtimes(a)
    counter(a, "count", "--restart", "always")
    before = inspect(a, "count")["State"]
    started = a.run("systemctl", "show", "--value", "--property=MainPID,NRestarts", "docker.service").out
    a.run("p.haul-service", "setup", timeout=120)
    assert "phaul" in runtimes(a)
    assert json.loads(a.read("cat", "/etc/docker/daemon.json"))["debug"] is False
    assert inspect(a, "count")["State"] == before
    assert a.run("systemctl", "show", "--value", "--property=MainPID,NRestarts", "docker.service").out == started
    check_counter(wait_ticks(a, "count", ticks(a, "count")[-1][0] + 20))
    said = a.run("p.haul-service", "setup", timeout=120).out
    assert "knows the runtime already" in said


def runtimes(host: Host) -> set[str]:
    return set(host.engine.get("/info")["Runtimes"])
