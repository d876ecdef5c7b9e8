"""Driving P.Haul in the lab: what more than one test module needs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from lab import Done, Host, LabError, residue
from lab.waiting import until

HAUL_TIMEOUT_S = 150
DEADLINE_S = 60
# What P.Haul keeps on purpose: what became of each haul, and the directories themselves.
KEPT = re.compile(
    r"[+-] files: /(run/phaul(/restore)?|var/lib/phaul(/work)?|var/lib/phaul/journal(/[-0-9a-f]+\.(source|target))?)"
)

T = TypeVar("T")


@dataclass(frozen=True)
class Summary:
    """What p.haul says at the end of a haul that went well."""

    subject: str
    downtime: float
    total: float
    bytes: dict[str, float]
    notes: tuple[str, ...]


def haul(host: Host, *argv: str, check: bool = True, env: dict[str, str] | None = None) -> Done:
    """Run `p.haul ARGV` on the host. Raises CommandFailed, with all that it said, where it fails and `check` is set."""
    return host.run("p.haul", *argv, timeout=HAUL_TIMEOUT_S, check=check, env=env)


def refused(done: Done, code: str, status: int = 3) -> str:
    """The one sentence that p.haul refused with. Raises AssertionError unless it is one, with that code and status."""
    said = f"status {done.code}\n{done.out}{done.err}"
    assert "Traceback" not in said, said
    assert done.code == status, said
    *sentences, verdict = [line for line in done.err.splitlines() if line.startswith("p.haul: ")] or [""]
    assert verdict == f"p.haul: [{code}] exit status {status}", said
    assert len(sentences) == 1, said
    sentence = sentences[0].removeprefix("p.haul: ")
    assert re.fullmatch(r"['\"A-Z/].{10,}[.)]", sentence), said
    return sentence


def summary(done: Done) -> Summary:
    """The lines at the end of a haul, read. Raises AssertionError where they are not there."""
    found = re.search(
        r"^Runs on \S+ as (?P<subject>\S{12})\.\n"
        r"Downtime (?P<downtime>\d+) ms, total (?P<total>[\d.]+) s, (?P<sum>[\d.]+ \w+) sent \((?P<kinds>.*)\)\.\n"
        r"(?P<notes>(.+\n)*)\Z",
        done.out,
        re.MULTILINE,
    )
    assert found, done.out
    kinds = [words.rsplit(" ", 2) for words in found["kinds"].split(", ")]
    return Summary(
        subject=found["subject"],
        downtime=int(found["downtime"]) / 1000,
        total=float(found["total"]),
        bytes={kind: size(number, unit) for kind, number, unit in kinds},
        notes=tuple(found["notes"].splitlines()),
    )


def size(number: str, unit: str) -> float:
    """ "1.5", "MiB" as bytes."""
    return float(number) * 1024.0 ** ("B", "KiB", "MiB", "GiB", "TiB").index(unit)


def inspect(host: Host, name: str) -> dict[str, Any]:
    """What `docker inspect` shows of a container."""
    found: dict[str, Any] = host.engine.get(f"/containers/{name}/json")
    return found


def state(host: Host, name: str) -> str:
    """ "running", "exited" and the like; "" where there is no such container."""
    every = host.engine.get("/containers/json?all=true")
    return next((str(found["State"]) for found in every if f"/{name}" in found["Names"]), "")


def wait_for(probe: Callable[[], T], what: str, deadline: float = DEADLINE_S) -> T:
    """The probe's first true value. Raises LabError, naming what was awaited, after `deadline` seconds."""
    return until(probe, what, timeout=deadline)


def left(host: Host, before: residue.Residue) -> list[str]:
    """What has come to the host, or gone, since that look: one line each, without what P.Haul keeps on purpose.

    The host has some seconds to finish what it is at.
    """

    def kept() -> list[str]:
        return [line for line in residue.diff(before, residue.residue(host)) if not KEPT.fullmatch(line)]

    try:
        until(lambda: not kept(), "no residue", timeout=15, interval=0.1)
    except LabError:
        return kept()
    return []
