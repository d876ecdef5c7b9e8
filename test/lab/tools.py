"""The lab's own C programs, compiled static so that they run in any root."""

from __future__ import annotations

from pathlib import Path

from . import cache

GUEST = Path(__file__).resolve().parent / "guest"
PROGRAMS = ("enter", "init", "ticker", "memhog", "shifter", "kinds", "workload", "share", "delay")
COMPILE = ("gcc", "-O2", "-Wall", "-static", "-pthread")


def directory() -> Path:
    """The directory with the compiled programs."""
    sources = [GUEST / f"{program}.c" for program in PROGRAMS]
    return cache.made(f"tools-{cache.key(*COMPILE, *(source.read_bytes() for source in sources))}", compile_all)


def compile_all(target: Path) -> None:
    target.mkdir()
    for program in PROGRAMS:
        cache.build([*COMPILE, GUEST / f"{program}.c", "-o", target / program])


def enter() -> Path:
    return directory() / "enter"
