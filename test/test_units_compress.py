"""Whether to compress: a look at real memory, how fast it is packed, how fast the link is, and what is made of it."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from puppet import PAGE, WORDS, Puppet

from phaul import forecast, preflight, sample
from phaul.args_parser import parser
from phaul.connection import Connection
from phaul.errors import LinkLost, ProtocolError, UsageError
from phaul.forecast import Trial, Way, choose
from phaul.htype import Capabilities
from phaul.link import Link
from phaul.messages_pb2 import Done, HostFacts, Reply
from phaul.mstats import Stats
from phaul.pace import Pace

HERE = 0x300000000000
PIECE = sample.PIECE // PAGE
MIB = 1 << 20
SOON = 20


def page(word: int) -> bytes:
    return word.to_bytes(8, "little") * WORDS


# The memory


@pytest.fixture
def puppet() -> Iterator[Puppet]:
    made = Puppet()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is."""
    monkeypatch.setattr(sample, "SECONDS", 20)
    monkeypatch.setattr(forecast, "TRIAL_SECONDS", 20)


def test_only_pages_that_are_there_are_looked_at(puppet: Puppet) -> None:
    puppet.do("map", HERE, 16 << 10)
    for at, pages, word in ((0, 1, 1), (1, 2, 2), (4, 4, 5), (20 * PIECE, PIECE, 7), (40 * PIECE, PIECE, 0)):
        puppet.do("write", HERE + at * PAGE, pages, word)
    before = tables(puppet.pid)
    found = sample.of([puppet.pid], 1 << 40)
    # One page is left out, which nobody has touched; what is zero is not sent, and so no sample either.
    assert found.count(page(1) + page(2) * 2 + page(5) * 4) == 1
    assert [piece for piece in found if page(7) in piece] == [page(7) * PIECE]
    assert all(piece.strip(b"\0") for piece in found)
    assert tables(puppet.pid) == before


def tables(pid: int) -> list[str]:
    """What the process needs to be where it is: reading untouched pages would let it grow."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [line for line in lines if line.startswith(("VmPTE", "RssAnon"))]


def test_a_file_is_no_memory(puppet: Puppet) -> None:
    head = Path(f"/proc/{puppet.pid}/exe").read_bytes()[:PAGE]
    assert not [piece for piece in sample.of([puppet.pid], 1 << 40) if head in piece]


def test_it_is_spread_and_no_more_than_wished(puppet: Puppet) -> None:
    pieces = 512
    puppet.do("map", HERE, pieces * PIECE)
    for number in range(pieces):
        puppet.do("write", HERE + number * sample.PIECE, PIECE, number + 1000)
    found = [piece for piece in sample.of([puppet.pid], 4 * MIB) if piece == piece[:PAGE] * PIECE]
    numbers = [int.from_bytes(piece[:8], "little") - 1000 for piece in found]
    assert len(set(numbers)) == len(numbers) <= 4 * MIB // sample.PIECE
    for quarter in range(4):
        assert 8 <= sum(number * 4 // pieces == quarter for number in numbers) <= 24
    assert sample.of([puppet.pid], sample.PIECE - 1) == []


def test_all_tasks_are_looked_at_and_who_is_gone_is_left_out(puppet: Puppet) -> None:
    other, gone = Puppet(), Puppet()
    gone.close()
    with contextlib.closing(other):
        for one, word in ((puppet, 3), (other, 4)):
            one.do("map", HERE, PIECE)
            one.do("write", HERE, PIECE, word)
        found = sample.of([gone.pid, 1 << 22, puppet.pid, other.pid], 1 << 40)
        assert [found.count(page(word) * PIECE) for word in (3, 4)] == [1, 1]
    assert sample.of([gone.pid], 1 << 40) == sample.of([], 1 << 40) == []
    before = len(os.listdir("/proc/self/fd"))
    sample.of([puppet.pid], 1 << 40)
    assert len(os.listdir("/proc/self/fd")) == before


def test_it_ends_in_time(puppet: Puppet, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(sample, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert 0 < len(sample.of([puppet.pid], 1 << 40)) <= 20
    monkeypatch.setattr(sample, "SECONDS", -1)
    assert sample.of([puppet.pid], 1 << 40) == []


# The trial


def test_what_a_trial_shows() -> None:
    noise, zeros = os.urandom(64 << 10), bytes(64 << 10)
    assert forecast.attempt([]) is None
    for pieces, low, high in (([noise] * 4, 1, 1), ([zeros] * 4, 0, 0.01), ([noise, zeros], 0.5, 0.51)):
        seen = forecast.attempt(pieces)
        assert seen and low <= seen.share <= high and seen.rate > 0


def test_a_trial_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "TRIAL_SECONDS", 0)
    seen = forecast.attempt([os.urandom(64 << 10), *[bytes(64 << 10)] * 100])
    assert seen and seen.share == 1


# The decision

LINK = 100.0
CASES = [
    ("auto", Trial(0.25, 1000), Way("zstd", 400, "Compressed (zstd, 0.25 of it): the link is slower than the codec.")),
    ("auto", Trial(0.25, 125), Way("zstd", 125, "Compressed (zstd, 0.25 of it): the link is slower than the codec.")),
    (
        "auto",
        Trial(0.25, 124.9),
        Way("", 100, "Not compressed (zstd, 0.25 of it): the codec is hardly faster than the link."),
    ),
    ("auto", Trial(0.8, 1000), Way("zstd", 125, "Compressed (zstd, 0.80 of it): the link is slower than the codec.")),
    ("auto", Trial(0.81, 1000), Way("", 100, "Not compressed (zstd, 0.81 of it): it hardly gets smaller.")),
    ("auto", Trial(1, 1e9), Way("", 100, "Not compressed (zstd, 1.00 of it): it hardly gets smaller.")),
    ("auto", None, Way("", 100)),
    ("none", Trial(0.01, 1e9), Way("", 100)),
    ("none", None, Way("", 100)),
    ("zstd", None, Way("zstd", 100, "Compressed (zstd).")),
    ("zstd", Trial(0.5, 50), Way("zstd", 50, "Compressed (zstd, 0.50 of it), as asked for.")),
    ("zstd", Trial(0.5, 5000), Way("zstd", 200, "Compressed (zstd, 0.50 of it), as asked for.")),
]


@pytest.mark.parametrize(("wish", "trial", "way"), CASES)
def test_what_is_chosen(wish: str, trial: Trial | None, way: Way) -> None:
    assert choose(wish, trial, LINK) == way


def test_a_limit_of_the_bandwidth_is_the_link() -> None:
    """What is not worth it on a fast link is on one that may be used little."""
    trial = Trial(0.5, 1000.0)
    assert [choose("auto", trial, link).codec for link in (1e6, 801.0, 800.0, 10.0)] == ["", "", "zstd", "zstd"]


# The link


@pytest.mark.parametrize(
    ("came", "said"),
    [
        ([], ""),
        ([(1.0, 500)], ""),
        ([(1.0, 500), (3.0, 1000)], "500"),
        # Slow start: the first half took 8 s, the later one 1 s.
        ([(0.0, 100), (4.0, 100), (8.0, 100), (8.5, 100), (9.0, 100)], "200"),
        ([(1.0, 500), (1.0, 1000)], "1000000000"),
    ],
)
def test_how_fast_the_later_half_came(came: list[tuple[float, int]], said: str) -> None:
    assert forecast.later_pace(came) == said


@contextlib.contextmanager
def probed(note: str | None) -> Iterator[Connection]:
    """The source's end of a channel "speed", whose far end says the note, or what it saw itself."""
    ours, theirs = (Connection(Link(sock, "peer")) for sock in socket.socketpair())
    with ThreadPoolExecutor(1) as pool, contextlib.closing(theirs):

        def serve() -> None:
            seen = forecast.pace_of(theirs)
            theirs.send(Reply(done=Done(note=seen if note is None else note)))

        serving = pool.submit(serve)
        yield ours
        serving.result(SOON)


@pytest.mark.parametrize("note", ["", "0", "-5", "nan", "inf", "1e400", "9" * 400, "7\n", "٣"])
def test_a_target_that_cannot_tell(note: str) -> None:
    with probed(note) as channel:
        rate = forecast.measure(channel, memory=MIB, pace=Pace())
    assert 1000 < rate < 1e12 and rate not in (7, 3)


def test_the_target_tells() -> None:
    with probed("12345678") as channel:
        assert forecast.measure(channel, memory=MIB, pace=Pace()) == 12345678
    with probed(None) as channel:
        assert forecast.measure(channel, memory=1024 * MIB, pace=Pace()) > 1000


def test_more_than_is_needed_to_measure_is_not_taken() -> None:
    ours, theirs = (Connection(Link(sock, "peer")) for sock in socket.socketpair())
    chunks = itertools.repeat(bytes(forecast.PROBE_CHUNK))
    with ThreadPoolExecutor(1) as pool, contextlib.closing(ours):
        sending = pool.submit(ours.link.send_chunks, chunks)
        with contextlib.closing(theirs), pytest.raises(ProtocolError, match="more than is needed"):
            forecast.pace_of(theirs)
        with pytest.raises(LinkLost):
            sending.result(SOON)


# The statistics


def test_what_is_paced_is_what_went(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = Stats(codec="zstd")
    kept: list[int] = []
    monkeypatch.setattr(stats.pace, "keep", kept.append)
    stats.add("memory", 100, 400)
    stats.add("image", 60, 60)
    assert kept == [100, 60]
    assert (stats.sent["memory"], stats.total, stats.content) == (100, 160, 460)


# The option

HOSTS = {host: HostFacts(hostname=host, capabilities=["compress", "hold"]) for host in ("here", "there")}


def refused(wish: str, able: Capabilities, *lacking: str) -> list[str]:
    hosts = {name: HostFacts(capabilities=["hold"]) if name in lacking else facts for name, facts in HOSTS.items()}
    found = preflight._compress(able, hosts, argparse.Namespace(compress=wish))
    assert {blocker.code for blocker in found} <= {"compress"}
    return [blocker.sentence for blocker in found]


def test_who_lacks_it_is_named() -> None:
    without = Capabilities(compress=False)
    for wish in ("auto", "none"):
        assert refused(wish, without, "here", "there") == []
    assert refused("zstd", Capabilities()) == []
    assert ["on there" in said for said in refused("zstd", without, "there")] == [True]
    assert ["on here" in said for said in refused("zstd", without, "here")] == [True]
    assert len(refused("zstd", without, "here", "there")) == 2
    assert all("python3-zstandard" in said for said in refused("zstd", without, "here", "there"))
    (said,) = refused("zstd", without)
    assert "cannot be compressed" in said


def test_the_command_line() -> None:
    for words, wish in (([], "auto"), (["--compress", "zstd"], "zstd"), (["--compress=none"], "none")):
        assert parser().parse_args(["docker", "web", "10.0.0.2", *words]).compress == wish
    with pytest.raises(UsageError, match="frob"):
        parser().parse_args(["docker", "web", "10.0.0.2", "--compress", "frob"])
