"""What a check shows of a subject and of its hosts, for people and programs, beside what it finds against a haul."""

from __future__ import annotations

from dataclasses import dataclass, field

from phaul.errors import Finding

KEPT, CLOSED, REFUSED = "kept", "closed", "refused"


@dataclass(frozen=True)
class Part:
    """Something that travels: its kind (mstats.KINDS), what people call it, and bytes before they are packed."""

    kind: str
    name: str
    size: int


@dataclass(frozen=True)
class Connection:
    """An established connection by its ends, and what becomes of it: KEPT, CLOSED, or REFUSED as the haul is."""

    ends: str
    fate: str


@dataclass(frozen=True)
class Overview:
    """What a haul of the subject would move."""

    parts: tuple[Part, ...] = ()
    connections: tuple[Connection, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the target's half of a driver says: findings, what of the image it lacks, versions and the like by name."""

    findings: tuple[Finding, ...] = ()
    lacks: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
