"""`p.haul check`: what it tells, to people and to programs, and that a haul begins with the same."""

from __future__ import annotations

import ast
import re
import typing
from pathlib import Path

import pytest
from hauling import checked, haul, python, refused, summary, unchanged, wait_for
from lab import Done, Host, Lab, shaping, workloads
from test_layers import MODULES

from phaul import check_document

ROOT = Path(__file__).resolve().parent
MIB = 1 << 20
# A program that is connected to one of this host.
LISTEN = """
import socket
with socket.create_server(("", 18091)) as server:
    print("ready", flush=True)
    held = [server.accept() for _ in range(10)]
"""
# What no test on two hosts makes for real, and why.
NOT_MADE = {
    "gpu": "there is no GPU here",
    "swarm": "a swarm needs overlay networks, which the hosts' kernel gives them in part alone",
    "volume-driver": "needs a plugin of the engine",
    "volume-remote": "no file server is in the lab",
    "engine-too-old": "the lab has one version of the engine",
    "log-driver": "needs a plugin of the engine at one host alone",
    "selinux": "the kernel has no SELinux",
    "seccomp": "every engine has it",
    "hold": "every driver can hold; test_new_driver has one that cannot",
}
# Whose word of that number is a code, functions and methods.
FUNCTIONS = {"Blocker": 0, "Caution": 0, "_of": 1}
METHODS = {"_found": 0, "_of": 0, "of": 0}


@pytest.fixture
def web(a: Host) -> str:
    a.docker("run", "--rm", "-v", "data:/data", "busybox", "dd", "if=/dev/urandom", "of=/data/file", "bs=1M", "count=5")
    return workloads.counter(a, "web", "-v", "data:/data")


def test_the_document(a: Host, b: Host, web: str) -> None:
    with unchanged(a, b):
        done, found = checked(a, b, subject="web")
    assert (done.code, done.err) == (0, "")
    assert found.keys() == check_document.Document.__annotations__.keys()
    assert (found["type"], found["subject"], found["address"], found["verdict"]) == ("docker", "web", b.ip, "movable")
    assert (found["findings"], found["connections"]) == ([], [])
    for side, host in (("source", a), ("target", b)):
        assert found[side]["name"] == host.name
        facts = found[side]["facts"]
        info = host.engine.get("/info")
        assert (facts["kernel"], facts["Docker"]) == (info["KernelVersion"], info["ServerVersion"])
        assert (facts["storage"], facts["cgroup"]) == (info["Driver"], f"v{info['CgroupVersion']}")
        assert {"CRIU", "rsync", "runc", "containerd", "machine", "security", "features"} <= facts.keys()
    sizes = {part["name"]: (part["kind"], part["bytes"]) for part in found["copied"]}
    assert sizes["busybox"] == ("image", 0) and sizes["data"][0] == "volume" and sizes["data"][1] >= 5 * MIB
    assert sizes["writable layer"][0] == "rootfs" and sizes["memory"][0] == "memory" and sizes["memory"][1] > 0
    assert_shape(found["forecast"], check_document.ForecastDocument)
    assert found["forecast"]["link"] > 0 and 0 < found["forecast"]["downtime"] <= found["forecast"]["total"]


def assert_shape(document: dict[str, object], kind: type) -> None:
    for name, wanted in typing.get_type_hints(kind).items():
        assert isinstance(document[name], wanted), name


def test_what_is_foretold_is_about_what_comes(a: Host, b: Host, web: str) -> None:
    _, found = checked(a, b, subject="web")
    told = summary(haul(a, "docker", "web", b.ip))
    copied = sum(part["bytes"] for part in found["copied"])
    assert copied / 2 < told.content < 2 * copied
    assert found["forecast"]["downtime"] < 3 * told.downtime and told.downtime < 10 * found["forecast"]["downtime"]
    assert found["forecast"]["total"] < 3 * told.total and told.total < 10 * found["forecast"]["total"]


def test_an_image_that_the_target_lacks(a: Host, b: Host) -> None:
    """Its lower layers are there."""
    a.docker("run", "--name", "maker", "busybox", "dd", "if=/dev/urandom", "of=/file", "bs=1M", "count=3")
    a.docker("commit", "maker", "ours:1")
    a.docker("run", "-d", "--name", "web", "ours:1", "sleep", "100000")
    _, found = checked(a, b, subject="web")
    (size,) = [part["bytes"] for part in found["copied"] if part["name"] == "ours:1"]
    assert 3 * MIB <= size < 3.5 * MIB


def test_a_slow_link_is_measured(paired: Lab, a: Host, b: Host, web: str) -> None:
    fast = checked(a, b, subject="web")[1]["forecast"]
    with shaping.link(paired, mbit=40, round_trip_ms=2):
        slow = checked(a, b, subject="web")[1]["forecast"]
    assert slow["link"] < 6 * MIB < fast["link"]
    assert slow["total"] > fast["total"]
    limited = checked(a, b, "--bandwidth", "1M", "--compress", "none", subject="web")[1]["forecast"]
    assert limited["link"] <= MIB and limited["total"] > 4


def test_for_people(a: Host, b: Host, web: str) -> None:
    done = haul(a, "check", "docker", "web", b.ip)
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert re.search(r"^ +here: a +there: b$", done.out, re.MULTILINE)
    assert re.search(r"^kernel +(\S+) +\1$", done.out, re.MULTILINE)
    assert re.search(r"^volume +\d\.\d MiB +data$", done.out, re.MULTILINE)
    assert re.search(r"^image +there already +busybox$", done.out, re.MULTILINE)
    assert re.search(r"^link +[\d.]+ \wiB/s$", done.out, re.MULTILINE)
    assert re.search(r"^downtime +\d\.\d s", done.out, re.MULTILINE)
    assert lines[-1] == f"web can be moved to {b.ip}."


def test_blockers_and_warnings_for_people(a: Host, b: Host) -> None:
    with python(a, LISTEN):
        for host in (a, b):
            host.path("/srv/bound").mkdir()
        connect = f"sleep 100000 | nc {a.ip} 18091"
        a.docker("run", "-d", "--name", "web", "-v", "/srv/bound:/data", "busybox", "sh", "-c", connect)
        done = wait_for(lambda: connected(haul(a, "check", "docker", "web", b.ip, check=False)), "the connection")
        a.docker("rm", "-f", "web")
        for host in (a, b):
            host.path("/srv/bound").rmdir()
    assert (done.code, done.err) == (3, "")
    assert max(map(len, done.out.splitlines())) <= 80
    flat = " ".join(done.out.split())
    assert "Warnings Nothing of /srv/bound is copied" in flat and "[bind-shared] Make sure" in flat
    assert "Blockers Container web has connections" in flat and "[connections] Close them first" in flat
    assert re.search(rf"^connection +refused +\S+ - {re.escape(a.ip)}:18091$", done.out, re.MULTILINE)
    assert flat.endswith(f"web cannot be moved to {b.ip}. Nothing was changed on either host.")


def connected(done: Done) -> Done | None:
    return done if "refused" in done.out else None


def test_a_check_that_fails_tells_programs_too(a: Host, b: Host, web: str) -> None:
    code = "service-not-running"
    done, found = checked(a, b, "--port", "9", subject="web")
    assert found == {"error": {"code": code, "status": 4, "sentence": refused(done, code, 4)}}


def test_every_finding_has_a_remedy() -> None:
    """Reason and remedy are apart from each other."""
    calls = [(name, call) for name, tree in MODULES.items() for call in ast.walk(tree) if isinstance(call, ast.Call)]
    made = [(name, call) for name, call in calls if getattr(call.func, "id", "") in ("Blocker", "Caution")]
    assert len(made) > 20
    assert [f"{name}:{call.lineno}" for name, call in made if len(call.args) < 3] == []


def codes() -> set[str]:
    """The codes of findings that stand as words in the calls that make them."""
    found = set()
    for call in (node for tree in MODULES.values() for node in ast.walk(tree) if isinstance(node, ast.Call)):
        place = FUNCTIONS.get(getattr(call.func, "id", ""), METHODS.get(getattr(call.func, "attr", "")))
        if place is not None and len(call.args) > place and isinstance(call.args[place], ast.Constant):
            found.add(str(call.args[place].value))
    return found


def test_each_finding_is_made_for_real_or_it_is_said_why_not() -> None:
    tests = "".join(path.read_text() for path in ROOT.glob("test_*.py") if path.name != "test_check.py")
    assert len(codes()) > 30
    missing = {code for code in codes() if f'"{code}"' not in tests}
    assert missing - NOT_MADE.keys() == set()
