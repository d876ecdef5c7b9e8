"""A dump in which CRIU sees no memory: its images are the same as if it had, and each kind of memory arrives."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import ended, under_way
from hauling import left, settled, state
from lab import Host, images, workloads

ANY = "set=phaul.dump_unseen:WORTH_BYTES=0"
PAGES_OF_KINDS = 2 * 10 * 256  # more, or fewer, by what the program itself has


POOL, POOL_PAGES = Path("/proc/sys/vm/nr_hugepages"), 16


@pytest.fixture
def hugetlb() -> Iterator[None]:
    """The machine has huge pages in its pool for as long as the test lasts."""
    before = POOL.read_text()
    if not os.access(POOL, os.W_OK):
        pytest.skip("the machine's pool of huge pages cannot be changed")
    POOL.write_text(f"{int(before) + POOL_PAGES}")
    try:
        if int(POOL.read_text()) < int(before) + POOL_PAGES:
            pytest.skip("the machine's memory is too scattered for huge pages")
        yield
    finally:
        POOL.write_text(before)


def moved(a: Host, b: Host, *words: str, mode: str) -> None:
    """It goes on at b, where all of its memory is right; it is removed from both then."""
    with under_way(a, b, words, ("--mode", mode), name="kinds") as hauling:
        ended_so = ended(hauling)
    assert ended_so.code == 0, ended_so
    done = workloads.ticks(a, "kinds")[-1][0]
    workloads.check_counter(workloads.wait_ticks(b, "kinds", done + 20))
    workloads.check_memory(b, "kinds")
    assert state(a, "kinds") == "exited"
    for host in (a, b):
        host.docker("rm", "-f", "kinds")


def test_the_images_are_as_criu_writes_them(a: Host, hugetlb: None) -> None:
    container = workloads.kinds(a, "kinds")
    a.docker("pause", "kinds")
    try:
        said = json.loads(a.run("python3", "/opt/phaul/test/two_dumps.py", container, timeout=120).out)
    finally:
        a.docker("unpause", "kinds")
    pages = said.pop("pages")
    assert said == {}
    assert pages > PAGES_OF_KINDS // 2
    before = workloads.ticks(a, "kinds")[-1][0]
    workloads.wait_ticks(a, "kinds", before + 2)
    assert workloads.check_memory(a, "kinds")
    a.docker("rm", "-f", "kinds")


@pytest.mark.parametrize("mode", ["auto", "postcopy"])
def test_each_kind_arrives(a: Host, b: Host, hugetlb: None, mode: str) -> None:
    for host in (a, b):
        images.load(host, "kinds")
    rest = {host.name: settled(host) for host in (a, b)}
    workloads.kinds(a, "kinds")
    moved(a, b, ANY, mode=mode)
    for host in (a, b):
        assert left(host, rest[host.name]) == []


@pytest.mark.parametrize("lacks", ["set=phaul.dump_unseen:_CLONE_NEWNS=67108864", "set=phaul.dirty:PAGEMAP_SCAN=0"])
def test_without_what_hides_them_criu_takes_the_pages(a: Host, b: Host, lacks: str) -> None:
    """No namespace can be entered; a kernel that has no PAGEMAP_SCAN."""
    workloads.kinds(a, "kinds")
    moved(a, b, ANY, lacks, mode="postcopy")
