"""Driving P.Haul in the lab: what more than one test module needs."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from lab import Done, Host, LabError, residue
from lab.waiting import until

HAUL_TIMEOUT_S = 150
DEADLINE_S = 60
RUNTIME_PATH = "/usr/local/lib/phaul/shim.py"
# What P.Haul keeps on purpose: what became of each haul, and the directories themselves.
KEPT = re.compile(
    r"[+-] files: /(run/phaul(/restore|/pages)?|var/lib/phaul(/work|/host-id)?"
    r"|var/lib/phaul/journal(/[-0-9a-f]+\.(source|target))?)"
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
    codec: str  # "" where it went plain, as much as it was
    content: float


def haul(host: Host, *argv: str, check: bool = True, env: dict[str, str] | None = None) -> Done:
    """Run `p.haul ARGV` on the host. Raises CommandFailed, with all that it said, where it fails and `check` is set."""
    return host.run("p.haul", *argv, timeout=HAUL_TIMEOUT_S, check=check, env=env)


def refused(done: Done, code: str, status: int = 3, *, program: str = "p.haul", details: int = 0) -> str:
    """The one sentence that p.haul refused with. Raises AssertionError unless it is one, with that code and status.

    `details` is how many lines for people follow the sentence.
    """
    said = f"status {done.code}\n{done.out}{done.err}"
    assert "Traceback" not in said, said
    assert done.code == status, said
    *sentences, verdict = [line for line in done.err.splitlines() if line.startswith(f"{program}: ")] or [""]
    assert verdict == f"{program}: [{code}] exit status {status}", said
    assert len(sentences) == 1 + details, said
    sentence = sentences[0].removeprefix(f"{program}: ")
    assert re.fullmatch(r"\S.{20,}([.)]|: p\.haul .+)", sentence), said
    return sentence


def refusal(a: Host, b: Host, code: str, *options: str, subject: str = "bad", kind: str = "docker") -> str:
    """The sentence that the haul of it to b is refused with, which is what its check found, and all that it found.

    Raises AssertionError where that is not so, or anything has changed on a host.
    """
    with unchanged(a, b):
        said = refused(haul(a, kind, *options, "--", subject, b.ip, check=False), code)
        done, found = checked(a, b, *options, subject=subject, kind=kind)
    assert done.code == 3, done
    if "error" in found:
        assert found["error"] == {"code": code, "status": 3, "sentence": said}
        return said
    assert found["verdict"] == "blocked"
    (blocker,) = [one for one in found["findings"] if one["level"] == "blocker"]
    assert blocker["code"] == code
    assert said == f"{blocker['reason']}: {blocker['remedy']}."
    assert blocker["subject"]
    return said


def checked(
    a: Host, b: Host, *options: str, subject: str = "bad", kind: str = "docker", env: dict[str, str] | None = None
) -> tuple[Done, dict[str, Any]]:
    """How `p.haul check --json` of it ended, and its document."""
    done = haul(a, "check", kind, "--json", *options, "--", subject, b.ip, check=False, env=env)
    found: dict[str, Any] = json.loads(done.out)
    return done, found


def summary(done: Done) -> Summary:
    """The lines at the end of a haul, read. Raises AssertionError where they are not there."""
    found = re.search(
        r"^Runs on \S+ as (?P<subject>\S{12})\.\n"
        r"Downtime (?P<downtime>\d+) ms, total (?P<total>[\d.]+) s, (?P<sum>[\d.]+ \w+) sent \((?P<kinds>.*)\)\.\n"
        r"(Compressed \((?P<codec>\w+)\): (?P<content>[\d.]+ \w+) went as [\d.]+ of it\.\n)?"
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
        codec=found["codec"] or "",
        content=size(*(found["content"] or found["sum"]).split()),
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


def left(host: Host, before: residue.Residue, *, timeout: float = 15, but: Iterable[str] = ()) -> list[str]:
    """What has come to the host, or gone, since that look: one line each, without what P.Haul keeps on purpose.

    `but` are lines that may be there, each once. The host has `timeout` seconds to finish what it is at.
    """

    def kept() -> list[str]:
        changes = [line for line in residue.diff(before, residue.residue(host)) if not KEPT.fullmatch(line)]
        return list((Counter(changes) - Counter(but)).elements())

    try:
        until(lambda: not kept(), "no residue", timeout=timeout, interval=0.1)
    except LabError:
        return kept()
    return []


@contextlib.contextmanager
def unchanged(*hosts: Host) -> Iterator[None]:
    """Raises AssertionError where the block left any trace on a host, or changed one of its containers."""
    before = [(host, settled(host), containers(host)) for host in hosts]
    yield
    for host, held, seen in before:
        changes = residue.settled_diff(host, held)
        assert not changes, f"{host.name}: {changes}"
        assert containers(host) == seen, host.name


def settled(host: Host) -> residue.Residue:
    """What the host holds, once it holds the same in two looks: nothing of what was begun before is under way."""
    last = [residue.residue(host)]

    def same() -> bool:
        last.append(residue.residue(host))
        return last[-1] == last[-2]

    until(same, f"{host.name} to come to rest", timeout=DEADLINE_S, interval=0.05)
    return last[-1]


def containers(host: Host) -> dict[str, dict[str, Any]]:
    """What `docker inspect` shows of every container, less what changes while it restarts by itself."""
    found = {}
    for listed in host.engine.get("/containers/json?all=true"):
        seen = inspect(host, listed["Id"])
        seen["Mounts"].sort(key=lambda mount: mount["Destination"])  # the engine shows them in any order
        restarts = seen["RestartCount"] > 0
        found[listed["Id"]] = {key: seen[key] for key in seen if not (restarts and key in ("RestartCount", "State"))}
    return found


@contextlib.contextmanager
def stand_in(host: Host, path: str, content: str | None) -> Iterator[None]:
    """Another file in the place of that one for a while; None: something that cannot be run, as if it were missing."""
    other = f"/run/stand-in-{secrets.token_hex(4)}"
    if content is not None:
        host.path(other).write_text(content)
        host.path(other).chmod(0o755)
    host.run("mount", "--bind", other if content is not None else "/dev/null", path)
    try:
        yield
    finally:
        host.run("umount", "-l", path)
        host.path(other).unlink(missing_ok=True)


@contextlib.contextmanager
def python(host: Host, program: str) -> Iterator[None]:
    """A Python program runs in the host, from its first line of output on until the end of the block."""
    running = host.popen("python3", "-c", program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert running.stdout.readline(), f"the program in {host.name} ended"
        yield
    finally:
        running.terminate()  # reaches it, which SIGKILL would not: its zombie would stay for a while
        running.communicate()


@contextlib.contextmanager
def without_runtime(host: Host) -> Iterator[None]:
    """The host's engine knows another runtime in the place of P.Haul's until the end of the block."""
    file = host.path("/etc/docker/daemon.json")
    saved = file.read_text()
    configure_engine(host, {**json.loads(saved), "runtimes": {"another": {"path": "/usr/bin/true"}}})
    wait_for(lambda: not runtime_path(host), "the engine to forget the runtime")
    try:
        yield
    finally:
        configure_engine(host, saved)
        wait_for(lambda: runtime_path(host) == RUNTIME_PATH, "the engine to learn of the runtime again")


def configure_engine(host: Host, document: dict[str, Any] | str) -> None:
    """Write daemon.json and make the engine read it, without waiting until it has."""
    text = document if isinstance(document, str) else json.dumps(document)
    host.path("/etc/docker/daemon.json.new").write_text(text)
    # At once: the engine may be reading it.
    host.path("/etc/docker/daemon.json.new").rename(host.path("/etc/docker/daemon.json"))
    host.run("sh", "-c", "kill -HUP $(cat /run/lab-dockerd.pid)")


def runtime_path(host: Host) -> str:
    """Where the host's engine looks for P.Haul's runtime; "" where it does not know it."""
    return str(host.engine.get("/info")["Runtimes"].get("phaul", {}).get("path", ""))


@contextlib.contextmanager
def directory(host: Host, path: str) -> Iterator[None]:
    """A new one on the host, for as long as the block lasts."""
    host.path(path).mkdir()
    try:
        yield
    finally:
        host.run("rm", "-rf", path)
