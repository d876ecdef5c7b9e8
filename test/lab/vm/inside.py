"""`python3 -m lab.vm.inside FUNCTION JSON`, run in a machine: this package's functions that look at files."""

from __future__ import annotations

import dataclasses
import json
import pickle
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import clean, residue
from ..dockerd import Dockerd
from ..engine import Engine
from ..host import Host
from .vmhost import UnitDockerd


@dataclass(frozen=True)
class HostItself(Host):
    """This machine, as it sees itself."""

    cgroup_pattern = "docker-*.scope"

    def path(self, inside: str) -> Path:
        return Path("/", inside)

    def argv(self, *argv: str | Path) -> list[str]:
        return list(map(str, argv))

    @property
    def engine(self) -> Engine:
        return Engine(Path("/run/docker.sock"))

    @property
    def dockerd(self) -> Dockerd:
        return UnitDockerd(self)


def itself(kept: list[str]) -> HostItself:
    return HostItself("this machine", "", 1, (Path("/sys/fs/cgroup/system.slice"),), set(kept))


def look() -> dict[str, Any]:
    return dataclasses.asdict(residue.residue(itself([])))


def baseline() -> str:
    """Take note of what there is; the file that it is written to."""
    file = Path(f"/run/lab-baseline-{secrets.token_hex(4)}")
    before = clean.baseline(itself([]))
    file.write_bytes(pickle.dumps({**vars(before), "host": None}))
    return str(file)


def restore(file: str, kept: list[str]) -> None:
    saved = {**pickle.loads(Path(file).read_bytes()), "host": itself(kept)}
    clean.restore(clean.Baseline(**saved))


FUNCTIONS = {"residue": look, "baseline": baseline, "restore": restore}

if __name__ == "__main__":
    print(json.dumps(FUNCTIONS[sys.argv[1]](**json.loads(sys.argv[2]))))
