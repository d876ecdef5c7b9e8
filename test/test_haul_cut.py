"""The link between the hosts breaks before COMMIT: the source runs on, and the target gives up by itself."""

from __future__ import annotations

from contextlib import ExitStack

from faults import CLEAN_S, STALE_SOCKET, Halt, Scene, ended, failed, goes_on, of_service
from hauling import HAUL_TIMEOUT_S, left, refused, settled
from lab import Done, workloads

CUT_POINTS = (
    "phase=check",
    "phase=prepare",
    "phase=sync",
    "after=phaul.docker_source:DockerSource.freeze",
    "after=phaul.docker_dump:Dump.finish",
    "phase=restore",
    "before=phaul.iters:Verify",
)


def test_connection_cut_at_each_phase(scene: Scene) -> None:
    """All at the same time, since it takes a while until a lost link is noticed."""
    names = {point: f"counter-{number}" for number, point in enumerate(CUT_POINTS)}
    for name in names.values():
        workloads.counter(scene.a, name)
    before = {host.name: settled(host) for host in scene.lab.hosts}
    with ExitStack() as stack:
        service = stack.enter_context(scene.serve())
        halts = {point: stack.enter_context(Halt(scene.a)) for point in CUT_POINTS}
        hauls = {
            point: stack.enter_context(scene.begun(point, halts[point].word, name=name))
            for point, name in names.items()
        }
        for point, halt in halts.items():
            halt.reached(hauls[point])
        scene.lab.cut("b")
        for halt in halts.values():
            halt.go()
        for point, process in hauls.items():
            cut_off(ended(process), point)
            goes_on(scene.a, names[point])
        # Still cut off: nobody tells b.
        for host, but in ((scene.a, ()), (scene.b, of_service(service))):
            changes = left(host, before[host.name], timeout=CLEAN_S, but=(STALE_SOCKET, *but))
            assert not changes, f"left on {host.name}: {changes}"
        scene.lab.join("b")
        scene.moves_now()
        for name in names.values():
            assert scene.a.run("p.haul", "docker", name, scene.b.ip, timeout=HAUL_TIMEOUT_S).code == 0
            goes_on(scene.b, name)


def cut_off(done: Done, point: str) -> None:
    if point == "phase=check":
        refused(done, "unreachable", 4)
    else:
        failed(done, "unreachable", "link-lost")
