"""Every parser that sees bytes of a peer, a container or a damaged disk: those that are kept, and made up ones.

The guided search for such bytes is `test/fuzz/run`.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fuzz import corpus, mutators
from fuzz.documents_of_a_haul import INSPECT, WANTED, written
from fuzz.table import Target
from fuzz.targets import TABLE
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from phaul import docker_wanted, documents, host_setup, message_bounds, procfs, streams
from phaul.connection import Connection
from phaul.errors import PhaulError, ProtocolError, Refused
from phaul.messages_pb2 import Checked, Expectation, Finding, OpenFile, Reply

TEST = Path(__file__).resolve().parent
CRIU = next(iter(sorted(Path("/var/cache/phaul-lab").glob("root-*/usr/lib/python3/dist-packages/pycriu"))), None)
EXAMPLES = 50


@pytest.fixture(params=TABLE)
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Target:
    chosen = TABLE[request.param]
    if chosen.needs == "pycriu" and not find_spec("pycriu") and CRIU:
        # Not on PyPI: that of the lab's hosts, which are of Debian.
        (tmp_path / "pycriu").symlink_to(CRIU)
        monkeypatch.syspath_prepend(tmp_path)
    if chosen.missing:
        pytest.skip(chosen.missing)
    return chosen


def test_what_was_found_once(target: Target) -> None:
    inputs = [*target.seeds(), *corpus.kept(target.name)]
    assert inputs
    with target.stage():
        for data in inputs:
            target.once(data)


def test_seeds_reach_what_is_behind_the_parser(target: Target) -> None:
    """Some of them are good: a target that refuses all is none."""
    with target.stage():
        assert [data for data in target.seeds() if goes_well(target, data)]


def goes_well(target: Target, data: bytes) -> bool:
    try:
        target.run(data)
    except target.expected:
        return target.name in NEVER_WELL
    return True


# Where a stream that ends is lost, or a certificate is asked for which is made anew each time.
NEVER_WELL = ("terminal", "cgroup")


def test_whatever_comes(target: Target) -> None:
    seeds = [*target.seeds(), *corpus.kept(target.name)]
    kept = st.sampled_from(seeds)

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(st.one_of(st.binary(max_size=300), kept), st.integers(0, 1 << 30))
    def all_of_it(data: bytes, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(3):
            data = (target.mutate or _plainly)(data, chance, lambda part: _plainly(part, chance, bytes))
            target.once(data)

    with target.stage():
        all_of_it()


def _plainly(data: bytes, chance: random.Random, _: mutators.Mutate) -> bytes:
    """Some bytes are others, are gone or come again."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(changed) + 1)
        way = chance.randrange(4)
        if way == 0:
            changed[at:at] = chance.choice((b"\0", b"\xff", b"\n", b"\x1b", b"../", b'"', b"[", chance.randbytes(3)))
        elif way == 1:
            del changed[at : at + chance.randrange(1, 9)]
        elif way == 2 and at < len(changed):
            changed[at] = chance.randrange(256)
        else:
            changed[at:at] = changed[at : at + chance.randrange(1, 40)]
    return bytes(changed)


# The guided search itself


def test_a_crash_is_found_and_told(tmp_path: Path) -> None:
    """A parser that was made to fail at some byte fails the run, by the words of the failure."""
    if not find_spec("atheris"):
        pytest.skip("atheris is not in this environment (it is not there for every Python): test/fuzz/run installs it")
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(BROKEN)
    command = [sys.executable, "-m", "fuzz", "arp", "--executions", "200000", "--out", str(tmp_path)]
    path = f"{tmp_path}:{TEST}:{TEST.parent}"
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=170, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "CRASH: ZeroDivisionError" in done.stdout and "0 passed, 1 failed" in done.stdout
    (result,) = json.loads((tmp_path / "result.json").read_text())["targets"]
    assert "ZeroDivisionError" in result["crash"]


BROKEN = """
from phaul import link_probe
def broken(frame, wanted):
    return "" if frame[:1] != b"Z" else 1 // 0
link_probe.sender_of = broken
"""


def test_readme_tells_what_was_run() -> None:
    results = json.loads((TEST / "fuzz/results/result.json").read_text())["targets"]
    assert {result["target"] for result in results} <= set(TABLE)
    readme = (TEST.parent / "README.md").read_text()
    found = re.search(r"(\d+) targets, ([\d,]+) executions, (\d+) crashes", readme)
    assert found
    assert int(found[1]) == len(results)
    assert int(found[2].replace(",", "")) == sum(result["executions"] for result in results)
    assert int(found[3]) == sum(bool(result["crash"]) for result in results) == 0


@pytest.mark.parametrize("name", TABLE)
def test_what_is_kept_is_little(name: str) -> None:
    kept = corpus.kept(name)
    assert 0 < len(kept) <= corpus.MAX_INPUTS
    assert (corpus.DIRECTORY / f"{name}.txt").stat().st_size <= corpus.MAX_BYTES


# Documents

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=200)
@given(st.dictionaries(st.text(), VALUES))
def test_a_document_is_what_was_written(document: dict[str, Any]) -> None:
    assert documents.read(json.dumps(document).encode(), documents.anything) == document


DEEP = b"[" * 100_000
NONE = {
    "deep": b'{"a":' + DEEP,
    "deep and closed": b'{"a":' + b"[" * 900 + b"]" * 900 + b"}",
    "deep by objects": b'{"a":' * 200 + b"1" + b"}" * 200,
    "many values": b'{"a":[' + b"0," * documents.MAX_VALUES + b"0]}",
    "a long number": b'{"a":' + b"9" * 100_000 + b"}",
    "a large number": b'{"a":9223372036854775808}',
    "no number": b'{"a":NaN}',
    "infinity": b'{"a":1e999}',
    "no object": b"[1]",
    "nothing": b"",
    "no UTF-8": b'{"a":"\xff"}',
    "cut off": b'{"a":"b',
    "two": b"{}{}",
}


@pytest.mark.parametrize("data", NONE.values(), ids=NONE)
def test_what_is_no_document(data: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^The peer sent a document .{8,}\.$") as caught:
        documents.read(data, documents.anything)
    assert "\n" not in caught.value.sentence and len(caught.value.sentence) < 300


def changed(where: str, value: object) -> bytes:
    """The container's document with another value at that place."""
    document = json.loads(json.dumps(WANTED))
    *path, last = where.split("/")
    inner = document
    for key in path:
        inner = inner[int(key) if isinstance(inner, list) else key]
    inner[int(last) if isinstance(inner, list) else last] = value
    return json.dumps(document).encode()


LEADING_ELSEWHERE = {
    "volumes/0/Name": "../containers/victim",
    "networks/0/Name": "../containers/victim",
    "image/tags/0": "../containers/victim",
    "image/id": "../containers/victim",
    "image/name": "a/../../containers/victim",
    "name": "../victim",
    "inspect/Mounts/0/Name": "../x",
    "inspect/Mounts/2/Source": "/srv/../etc",
    "inspect/HostConfig/Sysctls": {"/etc/shadow": "1"},
    "inspect/HostConfig/PortBindings": {"80/tcp": [{"HostPort": "99999", "HostIp": ""}]},
    "inspect/HostConfig/CpusetCpus": "0-x",
    "inspect/NetworkSettings/Networks": {"../x": INSPECT["NetworkSettings"]["Networks"]["net"]},
    "inspect/NetworkSettings/Networks/net/IPPrefixLen": 99,
    "inspect/NetworkSettings/Networks/net/IPAddress": "10.0.0.1\nlink del eth0",
    "serving/0/1": "a" * 64,
    "binds": {"/other": "directory"},
    "volumes": [],
    "inspect/HostConfig/Binds": ["other:/data"],
    "networks": [],
    "bind_files/0/path": "/a\0b",
    "bytes": -1,
    "memory": True,
    "facts/runc": ["1"],
}


@pytest.mark.parametrize("where", LEADING_ELSEWHERE)
def test_a_container_that_none_can_be(where: str) -> None:
    documents.read(written(WANTED)[0], docker_wanted.WANTED)
    with pytest.raises(ProtocolError, match="document that is none"):
        documents.read(changed(where, LEADING_ELSEWHERE[where]), docker_wanted.WANTED)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": 1e999}', '{"a": NaN}', '{"a": ' + "9" * 10_000 + "}"])
def test_a_daemon_json_that_could_not_be_written_again(text: str) -> None:
    with pytest.raises(Refused, match="mend it first; nothing was changed") as caught:
        host_setup.merged(text, "/r")
    assert caught.value.code == "daemon-json"


# Messages


def memory_now() -> int:
    """Bytes of it that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


MANY = {
    "findings": (Checked, b"\x0a\x00"),
    "findings of a reply": (Reply, b"\x1a\x02\x0a\x00"),
    "tasks": (Expectation, b"\x0a\x00"),
    "what is not known": (Checked, b"\x78\x01"),
}


@pytest.mark.parametrize("name", MANY)
def test_millions_of_fields_are_refused_before_they_are_made(name: str) -> None:
    kind, field = MANY[name]
    body = field * ((4 << 20) // len(field))
    link = _Fed(len(body).to_bytes(4, "big") + body)
    before = memory_now()
    with pytest.raises(ProtocolError, match="too many fields"):
        Connection(link).recv(kind)  # type: ignore[arg-type]
    assert memory_now() - before < 32 << 20


class _Fed:
    """What a Connection reads of a link."""

    peer = "peer"

    def __init__(self, data: bytes) -> None:
        self._data = data

    def recv(self, n_max: int, **_: object) -> bytes:
        return self.recv_exact(n_max)

    def recv_exact(self, n: int, **_: object) -> bytes:
        taken, self._data = self._data[:n], self._data[n:]
        return taken


def test_as_much_as_a_container_may_have_is_taken() -> None:
    files = [OpenFile(pid=1, fd=fd, path=f"/var/lib/data/{fd}", size=9) for fd in range(39_000)]
    body = Expectation(files=files).SerializeToString()
    assert len(body) > message_bounds.FEW_BYTES
    assert not message_bounds.too_many(body, Expectation.DESCRIPTOR)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.text(max_size=20), st.booleans()), max_size=30))
def test_fields_are_counted_as_they_are(findings: list[tuple[str, bool]]) -> None:
    message = Checked(findings=[Finding(code=code, blocks=blocks) for code, blocks in findings])
    fields = len(findings) + sum(bool(code) + blocks for code, blocks in findings)
    body = message.SerializeToString()
    assert message_bounds._count(memoryview(body), Checked.DESCRIPTOR, 10_000, 0) == fields


# Words


@settings(max_examples=300)
@given(st.text(max_size=200))
@example("\x1b[2J\x9b\u202e\u2028\u0085\ud800\t\r\n")
def test_words_are_harmless(text: str) -> None:
    shown = streams.harmless(text)
    assert all(line.isprintable() for line in shown.split("\n"))
    assert shown.count("\n") == text.count("\n")
    assert streams.printable(text).isprintable()
    assert streams.harmless(shown) == shown
    if text.isprintable():
        assert streams.printable(text) == text


def test_long_words_are_cut() -> None:
    assert len(streams.printable("x" * (4 << 20))) == streams.MAX_WORDS


@settings(max_examples=200)
@given(st.binary(min_size=1, max_size=60))
def test_mount_points_are_read_as_the_kernel_writes_them(name: bytes) -> None:
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes([byte]) for byte in name)
    (line,) = procfs.of_bytes(b"/" + escaped)
    assert procfs.os.fsencode(procfs.unescaped(line)) == b"/" + name
    procfs.worded(line).encode()


def test_a_target_that_fails_is_told() -> None:
    """The harness lets nothing pass but what is expected."""

    def fail(_: bytes) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        Target("x", fail, list).once(b"")
    Target("x", fail, list, expected=(PhaulError, KeyError)).once(b"")
