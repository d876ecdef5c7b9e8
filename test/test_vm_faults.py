"""Hauls that fail on whole machines: programs killed, a machine that loses its power."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest
from faults import Scene, all_settled
from hauling import haul, inspect, left, state, wait_for
from lab import Host
from lab.residue import residue
from lab.service import Service
from lab.spawning import PROJECT
from lab.vm import VmLab, missing
from lab.workloads import check_counter, counter, ticks, wait_ticks

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

UNIT = "p.haul-service.service"
AT_POINT = ("python3", "/opt/phaul/test/at_point.py")
HALTED = "/run/halted"
# Until the file is removed.
HALT = f"run=touch {HALTED}; for n in $(seq 900); do [ -e {HALTED} ] || break; sleep 1; done"
UNTIL_POWER_LOSS = f"run=touch {HALTED}; sleep 900"


@pytest.fixture
def mortal() -> Iterator[VmLab]:
    """Machines of the test's own, which may be broken."""
    if reason := missing():
        pytest.skip(reason)
    with VmLab.up(f"mortal-{os.getpid()}") as running:
        yield running


def halted(host: Host) -> bool:
    return not host.run("test", "-e", HALTED, check=False).code


@pytest.mark.long
def test_service_killed_while_it_holds_the_container(scene: Scene) -> None:
    with scene.serve("state=held", "kill") as service:
        done = scene.haul()
        assert service.process.wait(120) == -9
    assert done.code == 7, done
    scene.stays_and_moves()


@pytest.mark.long
def test_p_haul_killed_before_the_commit(scene: Scene) -> None:
    with scene.serve() as service:
        assert scene.haul("state=frozen", "kill").code == -9
        scene.stays(service)


@pytest.mark.long
def test_p_haul_killed_after_the_commit(scene: Scene) -> None:
    """Its guard finishes what is decided."""
    with scene.serve():
        assert scene.haul("state=committed", "kill").code == -9
        scene.moved()


@pytest.mark.long
def test_cable_pulled_before_the_commit(paired: VmLab, clean_lab: VmLab) -> None:
    """The link is lost while the target restores: it runs on at the source, the target gives it up."""
    a, b = paired.hosts
    container = counter(a, "count")
    with Service(b, command=(*AT_POINT, "state=held", HALT, "--", "p.haul-service")):
        under_way = a.popen("p.haul", "docker", "count", b.ip, stderr=subprocess.PIPE)
        wait_for(lambda: halted(b), "the target's holding it")
        paired.cut("b")
        _, said = under_way.communicate(timeout=300)
        assert under_way.returncode == 7, said
        check_counter(wait_ticks(a, "count", ticks(a, "count")[-1][0] + 20))
        paired.join("b")
        b.run("rm", HALTED)
        wait_for(lambda: state(b, "count") == "", "the target's giving it up")
    found = inspect(a, "count")
    assert (found["Id"], found["State"]["Status"]) == (container, "running")


def test_target_loses_power_before_the_commit(mortal: VmLab) -> None:
    a, b = mortal.hosts
    container = counter(a, "count", "--restart", "always")
    service = Service(b, command=(*AT_POINT, "state=held", HALT, "--", "p.haul-service"))
    under_way = a.popen("p.haul", "docker", "count", b.ip, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: halted(b), "the haul's coming to the point")
        b.power_off()
        _, said = under_way.communicate(timeout=300)
    finally:
        under_way.kill()
        service.kill()
    assert under_way.returncode == 7, said
    found = inspect(a, "count")
    assert (found["Id"], found["State"]["Status"]) == (container, "running")
    assert found["HostConfig"]["RestartPolicy"]["Name"] == "always"
    check_counter(wait_ticks(a, "count", ticks(a, "count")[-1][0] + 20))


# Where the haul is that is halted, and the restart policy of its container.
HAULS = {
    "early": ("state=frozen", "unless-stopped"),
    "count": ("state=committed", "always"),
    "late": ("phase=finish", "always"),
}


@pytest.mark.long
def test_source_loses_power(mortal: VmLab) -> None:
    """With a haul before COMMIT, one between COMMIT and release, and one that was released.

    Each container runs once in the end: started again at the source, where its policy says so, or at the target.
    """
    a, b = mortal.hosts
    install_unit(a)
    for name, (_, policy) in HAULS.items():
        counter(a, name, "--restart", policy)
    rest = residue(b)
    with Service(b), halted_hauls(a, b):
        wait_for(lambda: state(b, "late") == "running", "its running at b")
        mortal.power_cycle("a")
        wait_for(lambda: (state(b, "early"), state(b, "count")) == ("", ""), "b's giving up what it held")
        a.start_dockerd()
        wait_for(lambda: (state(a, "early"), state(a, "count")) == ("running", "exited"), "a's settling early")
        assert (state(a, "late"), policy_of(a, "late"), policy_of(a, "count")) == ("exited", "no", "no")
        said = {name: haul(a, "--resolve", name) for name in ("count", "late")}
        assert said["count"].out.startswith("count was given up by 10.79.0.2: it ended here when"), said
        assert said["late"].out.startswith("late runs on 10.79.0.2."), said
        assert [state(a, name) for name in HAULS] == ["running", "running", "exited"]
        assert [state(b, name) for name in HAULS] == ["", "", "running"]
        for name in ("early", "count"):
            assert policy_of(a, name) == HAULS[name][1]
            wait_ticks(a, name, ticks(a, name)[-1][0] + 5)
        check_counter(wait_ticks(b, "late", ticks(b, "late")[-1][0] + 20))
        wait_for(lambda: policy_of(b, "late") == "always", "b's settling late")
    for host in mortal.hosts:
        assert all_settled(host)
        assert host.run("sh", "-c", LEFT).out == ""
    b.docker("rm", "-f", "late")
    assert not left(b, rest, timeout=60)


LEFT = "ls /var/lib/phaul/work /run/phaul/restore | grep -v '^$\\|:'; grep -r Traceback /var/log/phaul; true"


def install_unit(host: Host) -> None:
    """P.Haul's service, started with the machine."""
    host.put(f"/usr/local/lib/systemd/system/{UNIT}", (PROJECT / "phaul" / UNIT).read_bytes())
    host.run("systemctl", "enable", UNIT)


@contextlib.contextmanager
def halted_hauls(source: Host, target: Host) -> Iterator[None]:
    """Each of HAULS under way, and come to its halt."""
    with contextlib.ExitStack() as under_way:
        for name, (point, _) in HAULS.items():
            command = (*AT_POINT, point, UNTIL_POWER_LOSS, "--", "p.haul", "docker", name, target.ip)
            process = under_way.enter_context(source.popen(*command))
            under_way.callback(process.kill)
            wait_for(lambda: halted(source), f"the haul of {name}'s coming to {point}")
            source.run("rm", HALTED)
        source.run("sync")
        yield


def policy_of(host: Host, name: str) -> str:
    return str(inspect(host, name)["HostConfig"]["RestartPolicy"]["Name"])
