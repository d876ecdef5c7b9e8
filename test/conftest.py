"""The lab as fixtures: two Docker hosts for the whole run, put back in order after each test that asks for it."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import Scene, make_scene
from hypothesis import HealthCheck, settings
from lab import Host, Lab, clean, images, service, vm

CAP_SYS_RESOURCE = 24

# The same examples each time, however busy the machine is.
settings.register_profile(
    "gate", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gate")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Cases marked vm have the fixture `lab` consist of whole machines."""
    if "lab" in metafunc.fixturenames and metafunc.definition.get_closest_marker("vm"):
        metafunc.parametrize("lab", ["vm"], indirect=True, scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The slow cases on whole machines come last, when all else is known; first where others go on beside them."""
    shared = hasattr(config, "workerinput")
    sizes = Counter(item.path for item in items)

    def place(item: pytest.Item) -> tuple[bool, int]:
        on_machines = item.get_closest_marker("vm") is not None
        return on_machines is not shared, -sizes[item.path] * shared

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests go to one process, and all those on whole machines: two pairs of them would be too many."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return "machines" if Path(file).name.startswith("test_vm_") else file

    config.option.loadscopereorder = False  # they are in a good order
    return ByFile(config, log)


# Who runs the tests with nohup(1) means their own terminal, not those of the hauls.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab | vm.VmLab]:
    """Hosts a and b with dockerd and the busybox image."""
    on_machines = getattr(request, "param", "") == "vm"
    if on_machines and (reason := vm.missing()):
        pytest.skip(reason)
    with (vm.VmLab if on_machines else Lab).up(f"test-{os.getpid()}") as running:
        for host in running.hosts:
            images.load(host, "busybox")
        yield running


@pytest.fixture(scope="session")
def host_a(lab: Lab) -> Host:
    return lab.host("a")


@pytest.fixture(scope="session")
def host_b(lab: Lab) -> Host:
    return lab.host("b")


@pytest.fixture(scope="session")
def paired(lab: Lab) -> Lab:
    """The lab, with both hosts set up and b knowing a."""
    if not lab.paired:
        service.pair(lab.host("a"), lab.host("b"))
    return lab


@pytest.fixture
def clean_lab(lab: Lab) -> Iterator[Lab]:
    """The lab; what the test leaves on the hosts is removed after it, so that no test can spoil another.

    Services are a test's own: those still running after it are ended.
    """
    before = clean.baselines(*lab.hosts)
    yield lab
    for host in lab.hosts:
        lab.join(host.name)
    clean.restore_all(before)


@pytest.fixture
def scene(paired: Lab, clean_lab: Lab) -> Scene:
    """A container that counts on a, which is paired with b."""
    return make_scene(clean_lab)


@pytest.fixture
def served(paired: Lab, clean_lab: Lab) -> Iterator[Lab]:
    """The paired lab with b's service running; what the test leaves is removed after it."""
    for host in paired.hosts:
        images.load(host, "busybox")
    with service.Service(paired.host("b")):
        yield paired


@pytest.fixture(scope="session")
def non_root_dumps(lab: Lab) -> None:
    """Skips where the machine lets CRIU dump root's processes only."""
    if "non-root-dumps" not in lab.capabilities:
        pytest.skip("no CAP_SYS_RESOURCE on this machine: CRIU cannot read the limits of a process that is not root's")


@pytest.fixture(scope="session")
def soft_dirty(lab: Lab) -> None:
    """Skips where the kernel does not track which memory has changed."""
    if "soft-dirty" not in lab.capabilities:
        pytest.skip("no soft-dirty tracking in this machine's kernel: no pre-copy rounds")


@pytest.fixture
def a(served: Lab) -> Host:
    return served.host("a")


@pytest.fixture
def b(served: Lab) -> Host:
    return served.host("b")
