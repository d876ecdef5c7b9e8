"""Hauls with compression: all arrives as it was, less goes over the wire, and what cannot be is refused untouched."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from faults import at_point, ended, kill_inner
from hauling import Summary, haul, left, refused, settled, state, summary, unchanged, wait_for
from lab import Host, Lab, images, shaping, workloads
from lab.service import Service
from test_haul_memory import MIB, PROBE, keeps_less_than, moved, received, whole
from test_haul_postcopy import Hog, hog, resolve, well

__all__ = ["hog"]

# So many bits of 64 are random.
BITS, SHARE = 16, 0.25
HIDDEN = "/run/without"
FRAMES = 1.2  # what Ethernet, IP, TCP, acknowledgements and TLS add, at most
SLOW = ("--compress", "zstd", "--bandwidth", "3M")


def compressed_haul(a: Host, b: Host, *options: str) -> tuple[Summary, int, str]:
    """Its summary, how many bytes came to b, and what it foretold."""
    before = received(b)
    done = moved(a, b, *options)
    return summary(done), received(b) - before, re.findall(r"^Expected .*$", done.out, re.MULTILINE)[0]


@pytest.mark.parametrize("mode", ["stopcopy", "postcopy", "auto"])
@pytest.mark.parametrize("wish", ["zstd", "auto", "none"])
def test_compressible_memory_on_a_slow_link(served: Lab, mode: str, wish: str) -> None:
    a, b = served.hosts
    workloads.memhog(a, "hog", mib=32, bits=BITS)
    with shaping.link(served, mbit=100, round_trip_ms=5):
        said, came, words = compressed_haul(a, b, "--mode", mode, "--compress", wish)
        whole(a, b)
    assert 32 * MIB < said.content < 1.1 * 32 * MIB
    if wish == "none":
        assert (said.codec, "ompressed" in words) == ("", False)
        assert said.bytes["memory"] > 32 * MIB and came > 32 * MIB
    else:
        assert said.codec == "zstd" and re.search(r" Compressed \(zstd, 0\.[123]\d of it\)", words), words
        assert said.bytes["memory"] < 1.5 * SHARE * 32 * MIB
    assert sum(said.bytes.values()) <= came < FRAMES * (sum(said.bytes.values()) + PROBE)


@pytest.mark.parametrize("wish", ["zstd", "auto"])
def test_memory_that_does_not_get_smaller(served: Lab, wish: str) -> None:
    a, b = served.hosts
    workloads.memhog(a, "hog", mib=32)
    with shaping.link(served, mbit=200, round_trip_ms=2):
        said, came, words = compressed_haul(a, b, "--compress", wish)
        whole(a, b)
    assert 0.99 * 32 * MIB < said.bytes["memory"] < 1.01 * 33 * MIB
    assert came < FRAMES * (33 * MIB + PROBE)
    if wish == "auto":
        assert said.codec == "" and "Not compressed (zstd, " in words and "hardly gets smaller" in words


def test_image_and_trees(a: Host, b: Host) -> None:
    images.remove_all(b)
    rest = settled(a)
    try:
        fill = "yes 'a line as there are many' | head -c 24000000 >/data/lines; head -c 1000000 /dev/urandom >/own"
        a.docker("run", "-d", "--name", "hog", "-v", "lines:/data", "busybox", "sh", "-c", f"{fill}; exec ticker")
        workloads.wait_ticks(a, "hog", 5)
        sums = ("exec", "hog", "sha256sum", "/data/lines", "/own", "/bin/busybox")
        before = a.docker(*sums)
        said, came, _ = compressed_haul(a, b, "--compress", "zstd")
        assert b.docker(*sums) == before
        workloads.check_counter(workloads.ticks(b, "hog"))
        # Zeros alone are as much as that of a static program's image.
        assert 100_000 < said.bytes["image"] < 2 * MIB
        assert said.bytes["volume"] < 2 * MIB and 1_000_000 < said.bytes["rootfs"] < 1.2 * MIB
        assert said.content > 24_000_000 + 1_000_000 + 2 * MIB
        assert came < 6 * MIB + PROBE
        for host in (a, b):
            host.docker("rm", "-f", "-v", "hog")
            host.docker("volume", "rm", "-f", "lines")
        assert left(a, rest) == []
    finally:
        images.load(b, "busybox")


@pytest.mark.parametrize("mode", ["stopcopy", "postcopy"])
def test_the_programs_memory(a: Host, b: Host, mode: str) -> None:
    workloads.memhog(a, "hog", mib=256, bits=BITS)
    keeps_less_than(100 * MIB, a, b, "--compress", "zstd", "--mode", mode)


# While memory follows


def compressible(hog: Hog) -> None:
    """Another one in its place."""
    hog.a.docker("rm", "-f", "hog")
    hog.id = workloads.memhog(hog.a, "hog", mib=48, bits=BITS)


def test_a_cable_cut_and_joined(hog: Hog) -> None:
    compressible(hog)
    with Service(hog.b, command=at_point("p.haul-service", ("set=phaul.link:DEAD_AFTER_MS=2000",))) as service:
        before = received(hog.b)
        with hog.released(*SLOW) as hauling:
            hog.lab.cut("b")
            wait_for(lambda: "silent" in log(hog.a) or "lost" in log(hog.a), "the loss of the connection")
            assert hauling.poll() is None and state(hog.a, "hog") == "paused"
            hog.lab.join("b")
            done = ended(hauling)
            well(done)
        assert summary(done).codec == "zstd"
        assert received(hog.b) - before < 24 * MIB
        hog.moved(service)


def log(host: Host) -> str:
    return host.run("sh", "-c", "cat $(ls -td /var/log/phaul/*/ | head -n 1)p.haul.log").out


@pytest.mark.parametrize("by", ["guard", "resolve"])
def test_another_process_serves_on(hog: Hog, by: str) -> None:
    """It sends as little."""
    compressible(hog)
    with Service(hog.b, command=at_point("p.haul-service", ("set=phaul.link:DEAD_AFTER_MS=2000",))) as service:
        before = received(hog.b)
        with hog.released(*SLOW, "--postcopy-timeout", "1") as hauling:
            if by == "guard":
                kill_inner(hauling)
            else:
                hog.lab.cut("b")
                refused(ended(hauling), "memory-left", 8)
                hog.lab.join("b")
                well(resolve(hog))
        hog.moved(service)
        assert received(hog.b) - before < 24 * MIB


# Hosts that cannot


@pytest.fixture
def without(paired: Lab, clean_lab: Lab) -> Iterator[dict[str, str]]:
    """An environment in which no program finds the package."""
    for host in paired.hosts:
        host.run("mkdir", "-p", HIDDEN)
        host.path(f"{HIDDEN}/zstandard.py").write_text("raise ModuleNotFoundError('hidden')\n")
    yield {"PYTHONPATH": HIDDEN}
    for host in paired.hosts:
        host.run("rm", "-rf", HIDDEN)


@pytest.mark.parametrize("lacking", ["a", "b", "ab"])
def test_a_host_that_cannot(paired: Lab, without: dict[str, str], lacking: str) -> None:
    a, b = paired.hosts
    here, there = (without if host in lacking else None for host in "ab")
    workloads.counter(a, "hog")
    with Service(b, env=there):
        with unchanged(a, b):
            done = haul(a, "docker", "hog", b.ip, "--compress", "zstd", check=False, env=here)
        words = {"a": "on this host", "b": "on b"}
        assert done.code == 3 and done.err.count("[compress]") == 1, done.err
        sentences = [line for line in done.err.splitlines() if "python3-zstandard" in line]
        assert len(sentences) == len(lacking)
        assert all(any(words[host] in line for line in sentences) for host in lacking)
        done = haul(a, "docker", "hog", b.ip, env=here)
        assert "ompressed" not in done.out and summary(done).codec == ""
        workloads.check_counter(workloads.wait_ticks(b, "hog", workloads.ticks(a, "hog")[-1][0] + 5))


def test_it_is_told_with_the_other_reasons(paired: Lab, without: dict[str, str]) -> None:
    a, b = paired.hosts
    a.docker("run", "-d", "--name", "hog", "-t", "busybox", "sleep", "1000")
    with Service(b, env=without), unchanged(a, b):
        done = haul(a, "docker", "hog", b.ip, "--compress", "zstd", check=False)
    assert done.code == 3 and "terminal" in done.err and "python3-zstandard on b" in done.err
