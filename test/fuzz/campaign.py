"""Running targets under libFuzzer, each in a process of its own, and what came of it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from . import corpus
from .table import Target

TEST = Path(__file__).resolve().parent.parent
MIB, INPUT_SECONDS, MOST_SECONDS = 1024, 20, 4 * 3600
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_WORDS = re.compile(r"^(?:==\d+== ?ERROR: .*|[A-Za-z_.]*(?:Error|Exception|Exit)\b.*)$", re.MULTILINE)
_COVERED = re.compile(r"cov: (\d+)")


@dataclass(frozen=True)
class Result:
    """`edges` of P.Haul's code that were reached; `crash` is what the parser did that it may not, "" for nothing."""

    target: str
    executions: int
    edges: int
    seconds: float
    kept: int
    crash: str = ""


def run(target: Target, executions: int, crashes: Path, *, minutes: float) -> Result:
    """So many executions, or minutes, beginning with what is kept; then the corpus is minimised, and kept."""
    with tempfile.TemporaryDirectory(prefix="phaul-fuzz-", dir="/dev/shm") as name:
        work = Path(name)
        (work / "corpus").mkdir()
        for data in (*target.seeds(), *corpus.kept(target.name)):
            (work / "corpus" / hashlib.sha256(data).hexdigest()[:20]).write_bytes(data)
        began = time.monotonic()
        flags = [f"-runs={executions}", f"-timeout={INPUT_SECONDS}", f"-artifact_prefix={crashes}/{target.name}-"]
        flags += [f"-max_total_time={round(60 * minutes)}", "-print_final_stats=1"]
        code, said = _fuzz(target, work, [*flags, str(work / "corpus")])
        crash = "" if code == 0 else _crash(said)
        kept = _keep(target, work) if not crash else len(corpus.kept(target.name))
    return Result(
        target=target.name,
        executions=int((_EXECUTED.findall(said) or ["0"])[-1]),
        edges=max(map(int, _COVERED.findall(said)), default=0),
        seconds=round(time.monotonic() - began, 1),
        kept=kept,
        crash=crash,
    )


def _fuzz(target: Target, work: Path, flags: list[str]) -> tuple[int, str]:
    common = [f"-max_len={target.longest}", f"-rss_limit_mb={MIB}"]
    command = [sys.executable, "-m", "fuzz.guided", target.name, *common, *flags]
    path = os.pathsep.join((str(TEST), str(TEST.parent), *sys.path))
    environment = {**os.environ, "PHAUL_FUZZ_DIR": str(work), "PYTHONPATH": path}
    log = work / "log"
    with log.open("wb") as file:
        done = subprocess.run(
            command, stdout=file, stderr=file, cwd=TEST, env=environment, timeout=MOST_SECONDS, check=False
        )
    return done.returncode, log.read_text(errors="replace")


def _crash(said: str) -> str:
    """The exception, or libFuzzer's word for a hang or growth, and the innermost line of it."""
    found = _WORDS.findall(said)
    places = re.findall(r'File "([^"]+)", line (\d+)', said)
    where = f" ({Path(places[-1][0]).name}:{places[-1][1]})" if places else ""
    return f"{(found or said.splitlines()[-1:] or ['it ended'])[0][:300]}{where}"


def _keep(target: Target, work: Path) -> int:
    small = work / "small"
    small.mkdir()
    _fuzz(target, work, ["-merge=1", str(small), str(work / "corpus")])
    if not any(small.iterdir()):
        shutil.copytree(work / "corpus", small, dirs_exist_ok=True)
    return corpus.keep(target.name, (path.read_bytes() for path in small.iterdir()))
