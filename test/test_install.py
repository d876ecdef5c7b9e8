"""What setup.py puts where."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import supply
from lab.spawning import PROJECT

pytest.importorskip("setuptools")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root directory that P.Haul was installed into with the prefix /usr/local."""
    top = tmp_path_factory.mktemp("install")
    source, root = supply.shipped(top), top / "root"
    install = ["setup.py", "-q", "install", f"--root={root}", "--prefix=/usr/local", "--install-lib=/usr/local/lib/own"]
    install += ["--single-version-externally-managed", "--no-compile"]
    subprocess.run([sys.executable, "-W", "ignore", *install], cwd=source, check=True, timeout=120)
    return root / "usr/local"


def test_programs_and_unit_are_installed(installed: Path) -> None:
    for program in ("p.haul", "p.haul-service"):
        assert os.access(installed / "bin" / program, os.X_OK)
    unit = installed / "lib/systemd/system/p.haul-service.service"
    assert unit.read_bytes() == (PROJECT / "phaul/p.haul-service.service").read_bytes()
    there = {path.name for path in (installed / "lib/own/phaul").iterdir()}
    assert {"shim.py", "criu_inside.pl", "hold.sh", "poise.sh", "messages_pb2.py", "py.typed"} <= there


def test_man_pages_and_completion_are_installed(installed: Path) -> None:
    docs = PROJECT / "phaul/docs"
    found = {"man/man1/p.haul.1": "p.haul.1", "man/man8/p.haul-service.8": "p.haul-service.8"}
    for program in ("p.haul", "p.haul-service"):
        found[f"bash-completion/completions/{program}"] = f"completions/{program}"
    for place, name in found.items():
        assert (installed / "share" / place).read_bytes() == (docs / name).read_bytes()


def test_the_installed_programs_run(installed: Path) -> None:
    for program in ("p.haul", "p.haul-service"):
        done = subprocess.run(
            [sys.executable, installed / "bin" / program, "--help"],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(installed / "lib/own")},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("usage: ")
