"""P.Haul as others get it: built, and installed into environments with the oldest and the newest of what it needs."""

from __future__ import annotations

import datetime
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import LabError, cache
from lab.spawning import PROJECT

BUILD_S = 600
NO_NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeout|Temporary failure in name resolution|Network is unreachable"
)
# What the tests themselves import, of which any version does.
TESTING = ("pytest", "pytest-timeout", "pytest-rerunfailures", "hypothesis", "pyte", "pillow", "setuptools")
SHIPPED = ("p.haul", "p.haul-service", "phaul", "setup.py", "pyproject.toml", "README.md", "LICENSE")
WORDS = re.compile(r'install_requires=\[(.*?)\].*extras_require=\{"compress": \[(.*?)\]', re.DOTALL)


@dataclass(frozen=True)
class Environment:
    """A virtual environment with P.Haul in it, from its wheel; `kind` is oldest or newest."""

    path: Path
    kind: str

    def run(self, *words: str | Path, cwd: Path, timeout: float = BUILD_S) -> subprocess.CompletedProcess[str]:
        """A program of the environment, which sees nothing of the project but what is installed."""
        command = [str(self.path / "bin" / words[0]), *map(str, words[1:])]
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False)


def requirements() -> dict[str, str]:
    """The oldest version of each package that setup.py asks for, those of extras too."""
    found = WORDS.search((PROJECT / "setup.py").read_text())
    assert found
    return dict(re.findall(r'"([\w-]+)>=([\w.]+)"', found[1] + found[2]))


def shipped(where: Path) -> Path:
    """A directory of what the project ships, and nothing else."""
    source = where / "source"
    source.mkdir()
    for name in SHIPPED:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(PROJECT / name, source)
    return source


def build(where: Path) -> tuple[Path, Path]:
    """The sdist, from what the project ships, and the wheel, from that sdist alone, by setuptools of today."""
    out = where / "dist"
    cache.build([sys.executable, "setup.py", "-q", "sdist", "-d", out], cwd=shipped(where))
    (sdist,) = out.glob("*.tar.gz")
    _fetch(_pip(sys.executable, "wheel", "--no-deps", "-w", out, sdist))
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


def names_in(sdist: Path) -> set[str]:
    """What the sdist has, relative to its top directory."""
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def environment(kind: str, wheel: Path) -> Environment:
    """Packages are cached: the oldest for as long as they are the same, the newest for a week."""
    oldest = requirements()
    exact = [f"{name}=={version}" for name, version in sorted(oldest.items())]
    week = "-".join(map(str, datetime.date.today().isocalendar()[:2]))
    wanted = (*(exact if kind == "oldest" else sorted(oldest)), *TESTING)
    name = f"supply-{kind}-{cache.key(sys.version, *wanted, '' if kind == 'oldest' else week)}"
    path = cache.made(name, lambda target: _fill(target, wanted))
    # It was made under another name, which the commands in it still have: the interpreter itself does not mind.
    cache.build(_pip(path / "bin/python", "install", "--no-deps", "--force-reinstall", "--no-compile", wheel))
    return Environment(path, kind)


def _fill(target: Path, wanted: Sequence[str]) -> None:
    cache.build([sys.executable, "-m", "venv", target])
    _fetch(_pip(target / "bin/python", "install", *wanted))


def _fetch(words: Sequence[str | Path]) -> None:
    try:
        cache.build(words)
    except LabError as error:
        if NO_NETWORK.search(str(error)):
            pytest.skip("The package index cannot be reached, and what is needed of it is not in the cache.")
        raise


def _pip(python: str | Path, *words: str | Path) -> list[str | Path]:
    return [python, "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
