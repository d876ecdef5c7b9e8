"""The document of `p.haul check --json`. Sizes are in bytes, rates in bytes a second, times in seconds."""

from __future__ import annotations

from typing import TypedDict

from phaul.check import Report
from phaul.errors import Finding, PhaulError
from phaul.preflight import Host
from phaul.streams import printable

# What of a host's capabilities others may lack.
FEATURES = {
    "pre_dump": "tracks changed memory",
    "compare": "compares memory",
    "post_copy": "restores lazily",
    "compress": "compresses",
}


class FindingDocument(TypedDict):
    level: str  # "blocker" or "warning"
    code: str
    subject: str
    reason: str
    remedy: str


class HostDocument(TypedDict):
    name: str
    facts: dict[str, str]


class PartDocument(TypedDict):
    kind: str  # "image", "rootfs", "volume", "bind" or "memory"
    name: str
    bytes: int


class ConnectionDocument(TypedDict):
    ends: str
    fate: str  # "kept", "closed" or "refused"


class ForecastDocument(TypedDict):
    link: float
    codec: str  # "" where it would go plain
    rate: float  # of what is sent, before it is packed
    downtime: float
    total: float
    words: str


class Document(TypedDict):
    """`target`, `copied`, `connections` and `forecast` are null or empty where the target could not be asked."""

    type: str
    subject: str
    address: str
    verdict: str  # "movable", "warnings" or "blocked"
    findings: list[FindingDocument]
    source: HostDocument
    target: HostDocument | None
    copied: list[PartDocument]
    connections: list[ConnectionDocument]
    forecast: ForecastDocument | None


class ErrorDocument(TypedDict):
    """In the place of the other where the check itself failed."""

    code: str
    status: int
    sentence: str


def of(report: Report) -> Document:
    seen, overview = report.survey, report.overview
    return {
        "type": report.haul_type,
        "subject": report.subject,
        "address": report.target,
        "verdict": report.verdict,
        "findings": [_finding(finding) for finding in report.findings],
        "source": _host(seen.here),
        "target": _host(seen.there) if seen.there else None,
        "copied": [{"kind": part.kind, "name": part.name, "bytes": part.size} for part in overview.parts]
        if overview
        else [],
        "connections": [{"ends": one.ends, "fate": one.fate} for one in overview.connections] if overview else [],
        "forecast": _forecast(report),
    }


def of_error(error: PhaulError) -> dict[str, ErrorDocument]:
    return {"error": {"code": error.code, "status": error.status, "sentence": error.sentence}}


def _finding(finding: Finding) -> FindingDocument:
    return {
        "level": "blocker" if finding.blocks else "warning",
        "code": finding.code,
        "subject": finding.subject,
        "reason": finding.reason,
        "remedy": finding.remedy,
    }


def _host(host: Host) -> HostDocument:
    return {"name": printable(host.facts.hostname), "facts": host_facts_of(host)}


def host_facts_of(host: Host) -> dict[str, str]:
    """By the names that people read."""
    facts = host.facts
    told = {
        "kernel": facts.kernel,
        "machine": facts.machine,
        "cgroup": "v2" if facts.cgroup_v2 else "v1",
        "security modules": facts.security,
        "CRIU": facts.criu,
        "rsync": facts.rsync,
        **host.shown,
        "features": ", ".join(words for name, words in FEATURES.items() if name in facts.capabilities),
    }
    return {printable(name): printable(value) for name, value in told.items() if value}


def _forecast(report: Report) -> ForecastDocument | None:
    if not (report.outlook and report.overview):
        return None
    seen = report.outlook
    return {
        "link": seen.link,
        "codec": seen.way.codec,
        "rate": seen.way.rate,
        "downtime": seen.expected.downtime,
        "total": seen.total(report.overview.parts),
        "words": seen.expected.words,
    }
