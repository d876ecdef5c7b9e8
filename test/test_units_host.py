"""What is read of a host: tools' versions, CPU features, CRIU's logs, the engine's configuration."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phaul import criu_log, host_facts, host_setup, preflight
from phaul.errors import Refused
from phaul.htype import Capabilities
from phaul.messages_pb2 import HostFacts

VERSIONS = [
    ("Version: 4.2.1\nGitID: v4.2.1\n", (4, 2, 1)),
    ("Version: 3.17.1", (3, 17, 1)),
    ("rsync  version 3.4.1  protocol version 32\n", (3, 4, 1)),
    ("rsync  version v3.2.7  protocol version 31", (3, 2, 7)),
    ("runc version 1.3.6+ds1\nspec: 1.2.1\n", (1, 3, 6)),
    ("runc version 1.1.0-rc.1", (1, 1, 0)),
    ("6.18.5-amd64", (6, 18, 5)),
    ("6.1.0-40-cloud-amd64", (6, 1, 0)),
    ("version 12", ()),
    ("", ()),
]


@pytest.mark.parametrize(("text", "version"), VERSIONS)
def test_versions_as_tools_tell_them(text: str, version: tuple[int, ...]) -> None:
    assert host_facts.version_of(text) == version


@given(st.text())
def test_no_text_is_too_strange_for_a_version(text: str) -> None:
    version = host_facts.version_of(text)
    assert host_facts.version_of(host_facts.dotted(version)) == version


def test_versions_compare_as_numbers() -> None:
    assert host_facts.version_of("4.10") > host_facts.version_of("4.9.9")


@pytest.mark.parametrize(
    ("kernel", "needed"),
    [
        ("6.12.38", (4, 1)),
        ("6.13.0", (4, 1)),
        ("6.15.9", (4, 1)),
        ("6.16.0-rc1", (4, 2)),
        ("7.2", (4, 2)),
        ("5.10", (4, 1)),
    ],
)
def test_newer_kernels_need_newer_crius(kernel: str, needed: tuple[int, ...]) -> None:
    assert host_facts.criu_needed(kernel) == needed


def facts(**other: str) -> HostFacts:
    usual = {
        "hostname": "b",
        "machine": "x86_64",
        "kernel": "6.18.5",
        "criu": "4.2",
        "rsync": "3.2.7",
        "cpu": "avx sse2",
    }
    return HostFacts(**{**usual, **other})


@pytest.mark.parametrize(
    ("other", "codes"),
    [
        ({}, []),
        ({"criu": ""}, ["criu-missing"]),
        ({"criu": "4.1.1"}, ["criu-too-old"]),
        ({"criu": "4.1.1", "kernel": "6.12"}, []),
        ({"criu": "4.0", "kernel": "6.12"}, ["criu-too-old"]),
        ({"criu": "4.1", "kernel": "5.10.0-31-amd64"}, ["kernel-too-old"]),
        ({"rsync": "3.1.3"}, ["rsync-too-old"]),
        ({"rsync": "", "criu": ""}, ["rsync-missing", "criu-missing"]),
    ],
)
def test_tools(other: dict[str, str], codes: list[str]) -> None:
    blockers = host_facts.tool_blockers(facts(**other), "this host")
    assert [blocker.code for blocker in blockers] == codes
    assert all("this host" in blocker.sentence for blocker in blockers)


def test_cpu_features_that_the_target_lacks() -> None:
    assert host_facts.cpu_blockers(facts(), facts(cpu="avx avx2 sse2")) == []
    (blocker,) = host_facts.cpu_blockers(facts(cpu="avx avx2 sse2"), facts())
    assert blocker.code == "cpu-features" and "(avx2)" in blocker.sentence and "--skip-cpu-check" in blocker.sentence
    many = " ".join(f"f{number:02}" for number in range(20))
    (blocker,) = host_facts.cpu_blockers(facts(cpu=many), facts(cpu=""))
    assert "f07 …" in blocker.sentence and "f08" not in blocker.sentence


def test_another_machine_is_not_a_question_of_features() -> None:
    (blocker,) = host_facts.cpu_blockers(facts(), facts(machine="aarch64", cpu="fp asimd"))
    assert blocker.code == "architecture" and "aarch64" in blocker.sentence


def test_what_this_host_tells_of_itself_is_asked_anew_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for version in ("4.1", "4.2"):
        (tmp_path / "criu").write_text(f"#!/bin/sh\necho Version: {version}\n")
        (tmp_path / "criu").chmod(0o755)
        assert host_facts.gather().criu == version


RESTORE_LOG = """\
(00.000000) Version: 4.2.1 (gitid v4.2.1)
(00.000100) Warn  (criu/kerndat.c:1103): $XDG_RUNTIME_DIR not set.
(00.000200) Error (criu/unix.c:1): Unix socket is not as expected
(00.012345)      1: Error (criu/files-reg.c:2260): File tmp/x has bad size 5 (expect 7)
(00.012400) Error (criu/cr-restore.c:1490): 7 killed by signal 9: Killed
(00.012500) Error (criu/cr-restore.c:2536): Restoring FAILED.
"""


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (RESTORE_LOG, "File tmp/x has bad size 5 (expect 7)"),
        ("(00.1) Error (criu/cr-dump.c:2115): Dumping FAILED.\n", "Dumping FAILED."),
        ("(00.1) Warn  (criu/x.c:1): odd\n", ""),
        ("", ""),
        ("Error (a): no clock\n", ""),
        (
            "(12.5) Error (criu/tty.c:9): tty: Found slave peer index 0\n(12.6) Error (x): later\n",
            "tty: Found slave peer index 0",
        ),
    ],
)
def test_the_deciding_line_of_a_log(tmp_path: Path, log: str, line: str) -> None:
    (tmp_path / "log").write_text(log)
    assert criu_log.deciding_line(tmp_path / "log") == line


def test_logs_that_are_long_or_odd_or_not_there(tmp_path: Path) -> None:
    assert criu_log.deciding_line(tmp_path / "none") == ""
    assert criu_log.deciding_line(tmp_path) == ""
    noise = b"(00.1) \xff\xfe\n" * (criu_log.MAX_BYTES // 10)
    (tmp_path / "log").write_bytes(noise + b"(99.9) Error (criu/x.c:1): at last\n")
    assert criu_log.deciding_line(tmp_path / "log") == "at last"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    document=st.dictionaries(st.text(max_size=8).filter(lambda key: key != "runtimes"), JSON, max_size=4),
    runtimes=st.none() | st.dictionaries(st.text(max_size=5), JSON, max_size=3),
    indent=st.none() | st.integers(0, 4),
)
def test_daemon_json_keeps_all_else(
    document: dict[str, Any], runtimes: dict[str, Any] | None, indent: int | None
) -> None:
    if runtimes is not None:
        document["runtimes"] = runtimes
    text = host_setup.merged(json.dumps(document, indent=indent), "/x/shim.py")
    assert text is not None
    assert json.loads(text) == {**document, "runtimes": {**(runtimes or {}), "phaul": {"path": "/x/shim.py"}}}
    assert host_setup.merged(text, "/x/shim.py") is None
    assert host_setup.merged(text, "/y/shim.py") is not None


@pytest.mark.parametrize("text", ["", " \n", "{}"])
def test_a_daemon_json_that_says_nothing_yet(text: str) -> None:
    assert json.loads(host_setup.merged(text, "/x") or "") == {"runtimes": {"phaul": {"path": "/x"}}}


@given(st.text())
def test_what_is_no_configuration_is_refused(text: str) -> None:
    try:
        host_setup.merged(text, "/x")
    except Refused as refused:
        assert refused.code == "daemon-json" and "nothing was changed" in refused.sentence


@pytest.mark.parametrize(
    ("mode", "limit", "lacking", "said"),
    [
        ("auto", None, {"here": "post_copy"}, []),
        ("stopcopy", None, {"here": "post_copy"}, []),
        ("postcopy", None, {}, []),
        ("precopy", None, {"here": "compare", "there": "pre_dump"}, ["xxhash on here"]),
        ("precopy", None, {"here": "pre_dump", "there": "pre_dump"}, []),
        ("precopy", None, {"there": "post_copy"}, ["--mode precopy", "of there cannot restore lazily"]),
        ("postcopy", None, {"here": "post_copy"}, ["--mode postcopy", "of here cannot restore lazily"]),
        ("auto", 100, {"there": "post_copy"}, ["--max-downtime", "of there cannot restore lazily"]),
    ],
)
def test_a_mode_that_cannot_be(mode: str, limit: int | None, lacking: dict[str, str], said: list[str]) -> None:
    able, hosts = Capabilities(), {}
    for name in ("here", "there"):
        word = lacking.get(name, "")
        words = [one for one in Capabilities().words() if one != word]
        hosts[name] = HostFacts(capabilities=words)
        able &= Capabilities.of_words(words)
    found = preflight._mode(able, hosts, argparse.Namespace(mode=mode, max_downtime=limit))
    assert [blocker.code for blocker in found] == ["mode"] * bool(said)
    assert all(words in found[0].sentence for words in said)


def test_a_mode_that_the_hauled_does_not_allow() -> None:
    every = {"here": HostFacts(capabilities=Capabilities().words())}
    options = argparse.Namespace(mode="postcopy", max_downtime=None)
    (found,) = preflight._mode(Capabilities(post_copy=False), every, options)
    assert "what is hauled" in found.sentence
