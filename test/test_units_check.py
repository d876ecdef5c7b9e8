"""The parts of the check: what is made of documents and tables that no host here shows, and how it is laid out."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest

from phaul import check_text, connection, docker_host_checks, docker_mount_checks, host_facts, sockets_seen
from phaul.check import Report
from phaul.errors import Blocker, Caution, Finding
from phaul.forecast import Expected, Way
from phaul.messages_pb2 import Finding as Message
from phaul.messages_pb2 import HostFacts
from phaul.outlook import Outlook
from phaul.overview import REFUSED, Connection, Overview, Part
from phaul.preflight import Host, Survey

INFO: dict[str, Any] = {
    "ServerVersion": "28.5",
    "NCPU": 4,
    "Plugins": {"Log": ["json-file", "local"]},
    "Runtimes": {},
    "SecurityOptions": ["name=seccomp,profile=builtin", "name=apparmor", "name=cgroupns"],
}
HOST: dict[str, Any] = {"LogConfig": {"Type": "json-file"}, "CpusetCpus": "", "NanoCpus": 0}
SOURCE = {"Docker": "28.5", "runc": "", "security": "apparmor cgroupns seccomp"}


def found(host: dict[str, Any] | None = None, info: dict[str, Any] | None = None, **other: Any) -> list[str]:
    """The codes of what speaks against a container of that configuration; `security` is what the source has."""
    source = {**SOURCE, **{name: other.pop(name) for name in ("security", "Docker", "runc") if name in other}}
    inspect = {"HostConfig": {**HOST, **(host or {})}, **other}
    seen = docker_host_checks.of_engine({**INFO, **(info or {})}, inspect, source, "b", (1, 3))
    assert all(finding.reason and finding.remedy and finding.subject in ("b", "this host") for finding in seen)
    return [finding.code for finding in seen]


SECCOMP_GONE = {"SecurityOptions": ["name=apparmor"]}


@pytest.mark.parametrize(
    ("host", "info", "other", "codes"),
    [
        ({}, {}, {}, []),
        ({"LogConfig": {"Type": "splunk"}}, {}, {}, ["log-driver"]),
        ({"LogConfig": {"Type": "none"}}, {}, {}, []),
        ({"NanoCpus": 4_000_000_000}, {}, {}, []),
        ({"NanoCpus": 4_100_000_000}, {}, {}, ["cpus"]),
        ({"CpusetCpus": "0-3"}, {}, {}, []),
        ({"CpusetCpus": "0,2-4"}, {}, {}, ["cpus"]),
        ({"CpusetCpus": "4"}, {}, {}, ["cpus"]),
        ({}, SECCOMP_GONE, {}, ["seccomp"]),
        ({"SecurityOpt": ["seccomp=unconfined"]}, SECCOMP_GONE, {}, []),
        ({"SecurityOpt": ["seccomp={}"]}, SECCOMP_GONE, {}, ["seccomp"]),
        ({}, SECCOMP_GONE, {"security": "apparmor"}, []),
        ({}, {"SecurityOptions": ["name=seccomp"]}, {"AppArmorProfile": "docker-default"}, ["apparmor"]),
        ({}, {"SecurityOptions": ["name=seccomp"]}, {"AppArmorProfile": "unconfined"}, []),
        ({}, {"SecurityOptions": ["name=seccomp"]}, {"AppArmorProfile": ""}, []),
        ({}, {}, {"security": "seccomp apparmor selinux"}, ["selinux"]),
        ({}, {}, {"security": "seccomp apparmor userns"}, ["userns"]),
        ({}, {"SecurityOptions": [*INFO["SecurityOptions"], "name=rootless"]}, {}, ["userns"]),
        ({"UsernsMode": "host"}, {}, {"security": "seccomp apparmor userns"}, []),
        ({"Sysctls": {"kernel.hostname": "x"}}, {}, {}, []),
        ({"Sysctls": {"net.ipv4.of_another_kernel": "1"}}, {}, {}, ["sysctl"]),
        ({}, {}, {"Docker": "29.0"}, ["docker-older"]),
        ({}, {}, {"Docker": "27.5.1"}, []),
        ({}, {}, {"runc": "1.4"}, ["runc-older"]),
    ],
)
def test_what_the_target_is(
    host: dict[str, Any], info: dict[str, Any], other: dict[str, Any], codes: list[str]
) -> None:
    assert found(host, info, **other) == codes


@pytest.mark.parametrize(("profile", "codes"), [("mine", []), ("min", ["apparmor"]), ("docker-default", [])])
def test_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str, codes: list[str]) -> None:
    loaded = tmp_path / "profiles"
    loaded.write_text("docker-default (enforce)\nmine (complain)\n")
    monkeypatch.setattr(docker_host_checks, "APPARMOR", loaded)
    assert found(AppArmorProfile=profile) == codes


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        (None, []),
        ({}, []),
        ({"type": "tmpfs", "device": "tmpfs"}, []),
        ({"type": "nfs", "device": ":/export", "o": "addr=10.0.0.9"}, ["volume-remote"]),
        ({"type": "cifs", "device": "//host/share"}, ["volume-remote"]),
        ({"type": "none", "device": "/nowhere", "o": "bind"}, ["volume-device"]),
        ({"type": "none", "device": "/etc", "o": "bind"}, ["volume-exists"]),
    ],
)
def test_volumes_that_are_elsewhere(options: dict[str, str] | None, codes: list[str]) -> None:
    seen = docker_mount_checks.volumes_here({"volumes": [{"Name": "data", "Options": options}]}, "b")
    assert [finding.code for finding in seen] == codes
    assert all(finding.reason.startswith("Volume data ") for finding in seen)


def test_where_a_path_of_the_container_is() -> None:
    mounts = [
        {"Type": "bind", "Destination": "/data", "Source": "/srv/data"},
        {"Type": "bind", "Destination": "/data/inner", "Source": "/srv/other"},
        {"Type": "volume", "Destination": "/data/volume", "Source": "/var/lib/docker/volumes/x/_data"},
        {"Type": "bind", "Destination": "/etc/zone", "Source": "/usr/share/zone"},
    ]
    for path, there in PATHS.items():
        assert docker_mount_checks._on_host(path, {"Mounts": mounts}) == there, path


PATHS = {
    "/data/file": "/srv/data/file",
    "/data/inner/file": "/srv/other/file",
    "/data/volume/file": "",
    "/database/file": "",
    "/etc/zone": "/usr/share/zone",
    "/bin/sh": "",
}


@pytest.mark.parametrize(
    ("digits", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000", "0.0.0.0"),
        ("00000000000000000000000000000000", "::"),
        ("00000000000000000000000001000000", "::1"),
        ("B80D01200000000000000000" + "01000000", "2001:db8::1"),
    ],
)
def test_addresses_as_the_kernel_writes_them(digits: str, address: str) -> None:
    assert sockets_seen._end(f"{digits}:0000").address == address


@pytest.mark.parametrize(
    ("apart", "codes"), [(0, []), (4, []), (-4, []), (6.5, []), (9, ["clock"]), (-6, ["clock"]), (-86400, ["clock"])]
)
def test_clocks(apart: float, codes: list[str]) -> None:
    """The target looked at its own up to two seconds later."""
    here, there = HostFacts(clock=1e9), HostFacts(clock=1e9 + apart, hostname="b")
    seen = host_facts.clock_cautions(here, there, seconds=2)
    assert [finding.code for finding in seen] == codes
    assert all(("behind" if apart < 0 else "ahead of") in finding.reason for finding in seen)


def test_what_is_older_at_the_target() -> None:
    newer, older = HostFacts(criu="4.10", kernel="6.18.5"), HostFacts(criu="4.9", kernel="6.2", hostname="b")
    assert [finding.code for finding in host_facts.older_cautions(newer, older)] == ["criu-older", "kernel-older"]
    assert host_facts.older_cautions(older, newer) == host_facts.older_cautions(older, older) == []


# How it is laid out

LONG = "a" * 200


def report(*findings: Finding, facts: str = "x") -> Report:
    shown = {"security": " ".join(["word"] * 60), "odd": facts}
    here, there = (Host(HostFacts(hostname=name, kernel="6.18"), dict(shown)) for name in ("here", "there"))
    overview = Overview((Part("image", "busybox", 0), Part("volume", LONG, 5 << 20)), (Connection("a - b", REFUSED),))
    outlook = Outlook(1e6, Way("", 1e6), Expected(0.3, "Expected downtime 0.3 s: " + "so " * 50))
    return Report("docker", "web", "10.0.0.2", Survey(findings, here, there), overview, outlook)


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_too_long(width: int) -> None:
    shown = list(
        check_text.lines(report(Blocker("one", LONG, LONG, "x"), Caution("two", "so " * 60, "do " * 60)), width)
    )
    assert max(len(line.text) for line in shown) == width
    assert not any(line.text.endswith(" ") for line in shown)


def test_nothing_is_left_out() -> None:
    findings = (Caution("odd", "It is odd", "mind it", "web"), Blocker("bad", "It is bad", "mend it", "web"))
    told = report(*findings)
    assert [finding.code for finding in told.findings] == ["bad", "odd"]
    text = " ".join(" ".join(line.text for line in check_text.lines(told, 80)).split())
    assert text.count("word") == 120 and "5.0 MiB" in text and "refused a - b" in text
    assert "Warnings It is odd. [odd] Mind it. Blockers It is bad. [bad] Mend it. web cannot be moved" in text
    assert "10.0.0.2, with 1 warning." in list(check_text.lines(report(findings[0]), 80))[-1].text


def test_what_differs_is_marked() -> None:
    told = report()
    told.survey.there.shown["odd"] = "y"  # type: ignore[union-attr]
    (line,) = [line for line in check_text.lines(told, 80) if line.text.startswith("odd")]
    assert line.style == check_text.ODD and line.text.split() == ["odd", "x", "y"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, terminal = io.StringIO(), Terminal()
    for stream in (plain, terminal):
        check_text.show(report(Blocker("one", LONG, "mend [it] \\[so]", "x")), stream, 80)
    assert "\x1b[1;31m" in terminal.getvalue() and "\x1b" not in plain.getvalue()
    assert re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()) == plain.getvalue()


def test_a_peer_cannot_write_to_the_terminal() -> None:
    told = report(
        connection.finding_of(Message(code="x", reason="\x1b[2Jbad", remedy="\rmend it", blocks=True)), facts="\x1b[2J"
    )
    told.survey.there.facts.hostname = "\x1b]0;b"  # type: ignore[union-attr]
    shown = "".join(line.text for line in check_text.lines(told, 80))
    assert "\x1b" not in shown and "\r" not in shown
    assert "[2Jbad" in shown


def test_a_sentence_is_reason_and_remedy() -> None:
    assert Blocker("one", "It is so", "do that").sentence == "It is so: do that."
    assert Blocker("one", "It is so.").sentence == Caution("one", "It is so").sentence == "It is so."
