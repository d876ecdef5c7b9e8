"""The floor below all: one process without a container, dumped and restored by CRIU where it was."""

from __future__ import annotations

from .bed import PROGRAM, SHARED, VOLUME_AT, Bed
from .cases import Case
from .rivals import HAUL_S

IMAGES = "/tmp/criu-images"
SWITCHES = "--manage-cgroups=ignore"
START = 'setsid "$@" </dev/null >/dev/null 2>&1 & echo $! >/tmp/criu-pid'
HAUL = f"""
pid=$(cat /tmp/criu-pid)
criu dump {SWITCHES} -t $pid -D {IMAGES} -o dump.log || {{ tail -3 {IMAGES}/dump.log >&2; exit 1; }}
criu restore {SWITCHES} -d -D {IMAGES} -o restore.log || {{ tail -3 {IMAGES}/restore.log >&2; exit 1; }}
"""


class Criu:
    """`criu dump`, `criu restore` on one host: no engine, no namespaces, no network."""

    name = "criu"
    words = "floor: bare criu dump + restore"
    copies = 2
    alone = True

    def start(self, bed: Bed, case: Case) -> None:
        bed.source.run("mkdir", "-p", IMAGES)
        bed.source.run("sh", "-c", START, "sh", f"{SHARED}/{PROGRAM}", *bed.arguments(case, data=VOLUME_AT))

    def haul(self, bed: Bed) -> str:
        return bed.source.run("sh", "-c", HAUL, timeout=HAUL_S).out

    def clear(self, bed: Bed) -> None:
        bed.source.run("rm", "-rf", IMAGES, "/tmp/criu-pid")
