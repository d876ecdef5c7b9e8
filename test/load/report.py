"""What was measured, as text and as a document."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from phaul.journal import KEEP

from .crowd import Crowd
from .idle import Idle
from .look import BYTES, KEPT
from .rounds import COUNT, SHARE, Rounds

SHOWN = ("service descriptors", "service threads", "service PSS", "service RSS", "guard PSS", "processes", "mounts")
SHOWN += ("cgroups", "interfaces", "network namespaces", "firewall rules", "images", "work", "run", "journals", "logs")


@dataclass(frozen=True)
class Load:
    """None where it was not asked for. `since` is the look that growth is told from."""

    machine: dict[str, str]
    crowd: Crowd | None
    rounds: Rounds | None
    idle: Idle | None
    since: int


def save(load: Load, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(asdict(load), indent=1) + "\n")
    (out / "result.md").write_text(markdown(load))


def markdown(load: Load) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in load.machine.items())
    parts = ["# Load", f"Measured by `test/load/run`: {facts}."]
    if load.crowd:
        parts.append(of_crowd(load.crowd))
    if load.rounds:
        parts.append(of_rounds(load.rounds, load.since))
    if load.idle:
        parts.append(of_idle(load.idle))
    return "\n\n".join(parts) + "\n"


def of_crowd(crowd: Crowd) -> str:
    least, most = min(crowd.downtimes), max(crowd.downtimes)
    return (
        f"## {crowd.moved} at once\n\n{crowd.moved} containers hauled at the same moment, while {crowd.others} others "
        f"ran on each host: all arrived within {crowd.seconds:.1f} s, and no counter misses a number. Downtime "
        f"{crowd.median:.2f} s (median; {least:.2f} to {most:.2f} s)."
    )


def of_rounds(rounds: Rounds, since: int) -> str:
    """A table for each host: what it held after so many hauls, and how much that grows."""
    grown = rounds.grows(since)
    told = ", ".join(grown) if grown else "nothing grows"
    parts = [
        f"## {rounds.hauls} in a row\n\n"
        f"One container hauled to and fro {rounds.hauls} times in {rounds.seconds:.0f} s; its counter wrote "
        f"{rounds.numbers} numbers, each once. Growth is that of the line which fits the looks from haul {since} on; "
        f"more than {COUNT} of what is counted, or {SHARE:.0%} of memory, would be told here: {told}. "
        f"Journals and logs are kept of the last {KEEP} hauls."
    ]
    for host in next(iter(rounds.looks.values())):
        heads = ["", *(f"{number}" for number in rounds.looks), "growth"]
        rows = [row(rounds, host, name, since) for name in SHOWN]
        parts.append(f"Host {host}, after so many hauls:\n\n{grid(heads, rows)}")
    return "\n\n".join(parts)


def row(rounds: Rounds, host: str, name: str, since: int) -> list[str]:
    values = [seen[host][name] for seen in rounds.looks.values()]
    growth = rounds.growth(host, name, since)
    told = "kept" if name in KEPT else size(growth) if name in BYTES else f"{growth:+.1f}"
    return [name, *(size(value) if name in BYTES else f"{value:.0f}" for value in values), told]


def size(count: float) -> str:
    return f"{count / (1 << 20):.2f} MiB"


def of_idle(idle: Idle) -> str:
    return (
        f"## Idle\n\np.haul-service with nothing to do, in {idle.seconds:.0f} s: {idle.cpu:.2f} s of CPU, "
        f"{idle.switches} context switches; memory (PSS) {size(idle.service)}, its guard {size(idle.guard)}."
    )


def grid(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows))
