"""Where the time between the last record before the haul and the first one after it goes.

Marks are moments of the wall clock, which both hosts share: P.Haul's logs, the engines' events, CRIU's logs.
CRIU writes how long after its own start each line was. Its last line is taken to be as old as the log file that
P.Haul has kept, or, for a restore, as the engine's next step after it, whichever is earlier.

A line "mark: ACCOUNT" in P.Haul's logs puts the time before it to that account; "mark: ACCOUNT at SECONDS" was at
that moment of the wall clock instead of the line's own.
"""

from __future__ import annotations

import calendar
import re
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lab import Host

LOGS = "/var/log/phaul"
LOGGED = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.(\d{3}) \S+ .*? (phaul\.\w+): (.*)$")
CRIU_LINE = re.compile(r"^\((\d+\.\d+)\)\s*(.*)$", re.MULTILINE)
SILENT_S = 0.002  # what CRIU was at so long, without a word, is a mark of its own
MARK = re.compile(r"mark: (\w[\w ]*?)(?: at (\d+\.\d+))?$")
# To whose account the time is put that ends with a mark that these words match.
ACCOUNTS = (
    ("engine a: container pause", "freeze"),
    (": frozen$", "freeze"),
    ("runc .*checkpoint", "freeze"),
    # Beside the dump, which lasts longer.
    ("passed over |run: .*rsync", "dump"),
    ("files passed$", "last pass over files"),
    (": dumped$", "runc"),
    ("images sent$", "channel"),
    ("criu dump begins", "runc"),
    ("criu dump", "dump"),
    ("criu restore begins", "engine and runc"),
    ("criu restore", "restore"),
    ("asks restore", "channel"),
    ("engine b: network", "network"),
    ("engine b: container", "engine and runc"),
    ("asks verify", "engine and runc"),
    ("asks release", "verify"),
    ("the workload runs", "release"),
)


@dataclass(frozen=True)
class Mark:
    """Seconds since the workload last ran, what was there, and to whose account the time before it goes."""

    at: float
    what: str
    account: str


def take(source: Host, target: Host, *, stopped: float, runs: float) -> list[Mark]:
    """The marks of the newest haul between those two moments, in their order."""
    found = [(runs, "the workload runs")]
    for host, program in ((source, "p.haul.log"), (target, "p.haul-service.log")):
        directory = newest(host)
        if directory:
            found += logged(directory / program, host.name)
            steps = events(host, stopped, runs)
            found += steps
            found += criu(directory, min((when for when, what in steps if "network connect" in what), default=runs))
    inside = sorted((when, what) for when, what in found if stopped <= when <= runs)
    return [Mark(when - stopped, what, account(what)) for when, what in inside]


def account(what: str) -> str:
    if named := MARK.search(what):
        return named[1]
    return next((name for pattern, name in ACCOUNTS if re.search(pattern, what)), "other")


def newest(host: Host) -> Path | None:
    """The directory of the host's last haul."""
    found = sorted(path for path in host.path(LOGS).glob("*-*") if path.is_dir())
    return found[-1] if found else None


def logged(path: Path, host: str) -> list[tuple[float, str]]:
    """The lines of one of P.Haul's logs."""
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        if parts := LOGGED.match(line):
            moment = calendar.timegm(time.strptime(parts[1], "%Y-%m-%d %H:%M:%S")) + int(parts[2]) / 1000
            mark = MARK.search(parts[4])
            found.append((float(mark[2]) if mark and mark[2] else moment, f"{host}: {parts[4][:100]}"))
    return found


def criu(directory: Path, latest: float) -> list[tuple[float, str]]:
    """Begin, silences and end of each CRIU whose log was kept there; a restore ended at `latest` or before."""
    found = []
    for log in directory.glob("*.log"):
        lines = [(float(moment), words) for moment, words in CRIU_LINE.findall(log.read_text(errors="replace"))]
        if not lines:
            continue
        end = log.stat().st_mtime
        if log.stem == "restore":
            end = min(end, latest)
        begin = end - lines[-1][0]
        found += [(begin, f"criu {log.stem} begins"), (end, f"criu {log.stem} ends")]
        found += [
            (begin + later, f"criu {log.stem}: was at: {words[:80]}")
            for (earlier, words), (later, _) in pairwise([(0.0, "its start"), *lines[:-1]])
            if later - earlier >= SILENT_S
        ]
    return found


def events(host: Host, since: float, until: float) -> list[tuple[float, str]]:
    """What the host's engine remembers."""
    wanted = ("--since", f"{since - 0.1:.6f}", "--until", f"{until:.6f}")
    said = host.docker("events", *wanted, "--format", "{{.TimeNano}} {{.Type}} {{.Action}}")
    lines = [line.partition(" ") for line in said.splitlines()]
    return [(int(moment) / 1e9, f"engine {host.name}: {what}") for moment, _, what in lines]


def by_account(marks: list[Mark]) -> dict[str, float]:
    """Seconds on each account; together they are the whole gap."""
    sums: dict[str, float] = {}
    before = 0.0
    for mark in marks:
        sums[mark.account] = sums.get(mark.account, 0.0) + mark.at - before
        before = mark.at
    return sums
