"""Hauls that fail on whole machines: programs killed, a machine that loses its power."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from faults import Scene
from hauling import haul, inspect, state, wait_for
from lab import Host
from lab.service import Service
from lab.vm import VmLab, missing
from lab.workloads import check_counter, counter, ticks, wait_ticks

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

AT_POINT = ("python3", "/opt/phaul/test/at_point.py")
HALTED = "/run/halted"
# Until the file is removed.
HALT = f"run=touch {HALTED}; for n in $(seq 900); do [ -e {HALTED} ] || break; sleep 1; done"


@pytest.fixture
def mortal() -> Iterator[VmLab]:
    """Machines of the test's own, which may be broken."""
    if reason := missing():
        pytest.skip(reason)
    with VmLab.up(f"mortal-{os.getpid()}") as running:
        yield running


def halted(host: Host) -> bool:
    return not host.run("test", "-e", HALTED, check=False).code


def test_service_killed_while_it_holds_the_container(scene: Scene) -> None:
    with scene.serve("state=held", "kill") as service:
        done = scene.haul()
        assert service.process.wait(120) == -9
    assert done.code == 7, done
    scene.stays_and_moves()


def test_p_haul_killed_before_the_commit(scene: Scene) -> None:
    with scene.serve() as service:
        assert scene.haul("state=frozen", "kill").code == -9
        scene.stays(service)


def test_p_haul_killed_after_the_commit(scene: Scene) -> None:
    """Its guard finishes what is decided."""
    with scene.serve():
        assert scene.haul("state=committed", "kill").code == -9
        scene.moved()


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


def test_source_loses_power_after_the_release(mortal: VmLab) -> None:
    """It runs on at the target; and when the source has power again, it does not run there as well."""
    a, b = mortal.hosts
    counter(a, "count", "--restart", "always")
    last = ticks(a, "count")[-1][0]
    with Service(b):
        under_way = a.popen(*AT_POINT, "phase=finish", HALT, "--", "p.haul", "docker", "count", b.ip)
        try:
            wait_for(lambda: halted(a), "the release")
            mortal.power_cycle("a")
        finally:
            under_way.kill()
            under_way.wait()
        check_counter(wait_ticks(b, "count", last + 20))
        wait_for(lambda: state(b, "count") == "running", "its running at b")
        a.start_dockerd()
        assert state(a, "count") == "exited"
        assert inspect(a, "count")["HostConfig"]["RestartPolicy"]["Name"] == "no"
        said = haul(a, "--resolve", "count", check=False)
        assert "Traceback" not in said.err
    assert (state(a, "count"), state(b, "count")) == ("exited", "running")
    assert inspect(b, "count")["HostConfig"]["RestartPolicy"]["Name"] in ("always", "no")
    check_counter(wait_ticks(b, "count", ticks(b, "count")[-1][0] + 20))
