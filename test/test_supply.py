"""The sdist and the wheel, and P.Haul with the oldest and the newest versions of what it needs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import supply
from lab import Lab, images
from lab.rootfs import HOST_PACKAGES
from lab.spawning import PROJECT
from supply import Environment

pytestmark = pytest.mark.timeout(900)

# Those that use a package which P.Haul needs, without a lab; and which one it is.
TESTS = {
    "cryptography": ("test_keys.py", "test_tls.py"),
    "protobuf": ("test_messages.py", "test_connection.py"),
    "rich": ("test_units_check.py",),
    "xxhash": ("test_units_compare.py",),
    "zstandard": ("test_codec.py",),
    "psutil": ("test_units_tasks.py",),
}
VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
# A life of a container, by P.Haul's own engine module.
ENGINE = """
import sys
from phaul import docker_api
docker_api.SOCKET = "unix://" + sys.argv[1]
engine = docker_api.Engine(timeout=60)
engine.ping()
assert engine.version()["Version"] and engine.info()["DockerRootDir"]
image = engine.image("busybox")["Id"]
assert image in [one["Id"] for one in engine.images()]
engine.make_volume("supply", "local", {}, {"a": "b"})
body = {"Image": image, "Cmd": ["sleep", "1000"], "HostConfig": {"Binds": ["supply:/data"]}}
container = engine.create("supply-1", body)
engine.rename(container, "supply-2")
engine.start(container)
seen = engine.inspect("supply-2")
assert seen["State"]["Running"] and seen["Mounts"][0]["Name"] == "supply", seen
assert [one["Names"] for one in engine.containers()] == [["/supply-2"]]
assert sum(map(len, engine.save("busybox"))) > 100000
engine.tag(image, "supply:new")
engine.untag("supply:new")
try:
    engine.inspect("supply-1")
except docker_api.NoSuch as error:
    print(error.sentence)
engine.remove(container, volumes=True)
engine.remove_volume("supply")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return supply.build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module", params=["oldest", "newest"])
def installed(request: pytest.FixtureRequest, built: tuple[Path, Path]) -> Environment:
    return supply.environment(request.param, built[1])


def test_the_sdist_has_all_that_is_installed(built: tuple[Path, Path]) -> None:
    names = supply.names_in(built[0])
    ours = {str(path.relative_to(PROJECT)) for path in (PROJECT / "phaul").rglob("*") if path.is_file()}
    assert {name for name in ours if "__pycache__" not in name} <= names
    assert {"p.haul", "p.haul-service", "setup.py", "README.md", "LICENSE"} <= names


def test_the_programs_run_where_nothing_else_is(installed: Environment, tmp_path: Path) -> None:
    for program in ("p.haul", "p.haul-service"):
        done = installed.run("python", installed.path / "bin" / program, "--version", cwd=tmp_path)
        assert re.fullmatch(r"P\.Haul \d[\d.]+\n", done.stdout), done
    where = installed.run("python", "-c", "import phaul; print(phaul.__file__)", cwd=tmp_path).stdout
    assert where.startswith(str(installed.path)), where


def test_without_pycriu_it_says_where_that_comes_from(installed: Environment, tmp_path: Path) -> None:
    program = "from phaul.host_facts import pycriu_blockers as b; print(b('web')[0].sentence)"
    done = installed.run("python", "-c", program, cwd=tmp_path)
    assert "pycriu is not on web: install the distribution's package python3-pycriu" in done.stdout, done


def test_the_versions_are_those_that_are_meant(installed: Environment, tmp_path: Path) -> None:
    oldest = supply.requirements()
    found = json.loads(installed.run("python", "-c", VERSIONS, *oldest, cwd=tmp_path).stdout)

    def parts(version: str) -> list[int]:
        return [*map(int, re.findall(r"\d+", version)), 0][:2]

    for name, version in oldest.items():
        if installed.kind == "oldest":
            assert parts(found[name]) == parts(version), (name, found[name])
        else:
            assert parts(found[name]) >= parts(version), (name, found[name])


def test_their_tests_pass(installed: Environment, tmp_path: Path) -> None:
    """The tests are those of the tree, P.Haul is that of the environment."""
    assert set(TESTS) | {"docker", "requests"} == set(supply.requirements())
    (tmp_path / "test").symlink_to(PROJECT / "test")
    files = [f"test/{name}" for names in TESTS.values() for name in names]
    options = ["-q", "-p", "no:cacheprovider", "-c", "/dev/null", f"--rootdir={tmp_path}", "-o", "pythonpath=test"]
    options += ["--reruns=2", "--reruns-delay=5"]
    run = "import sys, pytest; sys.path.remove(''); sys.exit(pytest.main(sys.argv[1:]))"
    done = installed.run("python", "-c", run, *options, "--timeout=120", *files, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) > 100, done.stdout[-500:]


def test_the_engine_is_spoken_to(installed: Environment, lab: Lab, clean_lab: Lab, tmp_path: Path) -> None:
    host = lab.host("a")
    images.load(host, "busybox")
    socket = tmp_path / "s"  # a path that is short enough for a socket
    os.symlink(host.engine.socket, socket)
    done = installed.run("python", "-c", ENGINE, socket, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Docker: No such container: supply-1\n"


def test_debian_has_packages_of_all_of_it() -> None:
    """README's list is what the lab's hosts have, and what setup.py asks for is among it."""
    readme = (PROJECT / "README.md").read_text()
    listed = re.search(r"pycriu is not on PyPI\):\n\n((?:    .*\n)+)", readme)
    assert listed
    packages = {word for line in listed[1].splitlines() for word in line.partition("#")[0].split()}
    assert packages - set(HOST_PACKAGES) == set()
    asked = {f"python3-{name}" for name in supply.requirements()}
    assert asked - packages == {"python3-requests"}, "python3-docker brings it along"
    python = re.search(r'python_requires=">=([\d.]+)"', (PROJECT / "setup.py").read_text())
    assert python and f"| Python | {python[1]} |" in readme
