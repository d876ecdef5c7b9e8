"""The lab as fixtures: two Docker hosts for the whole run, put back in order after each test that asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Host, Lab, clean, images, service

CAP_SYS_RESOURCE = 24


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Hosts a and b with dockerd and the busybox image."""
    with Lab.up(f"test-{os.getpid()}") as running:
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
    service.pair(lab.host("a"), lab.host("b"))
    return lab


@pytest.fixture
def clean_lab(lab: Lab) -> Iterator[Lab]:
    """The lab; what the test leaves on the hosts is removed after it, so that no test can spoil another.

    Services are a test's own: those still running after it are ended.
    """
    before = [clean.baseline(host) for host in lab.hosts]
    yield lab
    for host in lab.hosts:
        lab.join(host.name)
    for baseline in before:
        clean.restore(baseline)


@pytest.fixture(scope="session")
def non_root_dumps() -> None:
    """Skips where the machine lets CRIU dump root's processes only."""
    status = Path("/proc/self/status").read_text()
    bounding = next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:"))
    if not int(bounding, 16) >> CAP_SYS_RESOURCE & 1:
        pytest.skip("no CAP_SYS_RESOURCE on this machine: CRIU cannot read the limits of a process that is not root's")


@pytest.fixture(scope="session")
def soft_dirty(host_a: Host) -> None:
    """Skips where the kernel does not track which memory has changed."""
    if host_a.run("criu", "check", "--feature", "mem_dirty_track", check=False).code:
        pytest.skip("no soft-dirty tracking in this machine's kernel: no pre-copy rounds")
