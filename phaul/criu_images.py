"""Mending a dump where CRIU (4.2) writes down less than a program needs to go on as it was.

A periodic timerfd that expired while nobody read it has no next expiry until somebody does: CRIU
would arm it with none, and it would stand still for ever. A sleep that the freeze interrupted
would return early, with EINTR: the kernel alone would have gone on with it.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phaul import tasks_seen

LOG = logging.getLogger("phaul.criu")
INTERRUPTED = re.compile(r"Will restore (\d+) with interrupted system call")
EINTR = 2**64 - 4
NANOSLEEP, CLOCK_NANOSLEEP = 35, 230
SYSCALL_BYTES = 2

Json = dict[str, Any]


def prepare() -> None:
    """Have what mending needs at hand: to import it takes a good part of a usual downtime."""
    try:
        importlib.import_module("pycriu")
    except ImportError:
        LOG.warning("pycriu is not on this host: timers and sleeps of the program may suffer")


def mend(images: Path, log: Path) -> None:
    """The images of a dump whose tasks are still there, in place; `log` is what CRIU wrote about it."""
    try:
        pycriu: Any = importlib.import_module("pycriu")
    except ImportError:
        return
    _rewrite(pycriu, images / "files.img", _arm_timer)
    for pid in INTERRUPTED.findall(log.read_text(errors="replace")):
        _rewrite(pycriu, images / f"core-{tasks_seen.inner_pid(int(pid))}.img", _sleep_on)


def leave_cgroups(images: Path) -> None:
    """As a dump that ignores cgroups: restored tasks stay in those that the runtime has put them in."""
    pycriu: Any = importlib.import_module("pycriu")
    for path in (*images.glob("core-*.img"), images / "inventory.img"):
        _rewrite(pycriu, path, _leave_cgroup)
    (images / "cgroup.img").unlink(missing_ok=True)


def _leave_cgroup(entry: Json) -> bool:
    parts = [entry, entry.get("tc", {}), entry.get("thread_core", {})]
    left = [part.pop(name) for part in parts for name in ("cg_set", "root_cg_set") if name in part]
    return bool(left)


def _rewrite(pycriu: Any, path: Path, change: Callable[[Json], bool]) -> None:
    if not path.exists():
        return
    with path.open("rb") as file:
        image = pycriu.images.load(file)
    if [entry for entry in image["entries"] if change(entry)]:
        LOG.info("mended %s", path.name)
        with path.open("wb") as file:
            pycriu.images.dump(image, file)


def _arm_timer(entry: Json) -> bool:
    """A timer with an interval and no next expiry: it expires at once, as it has already."""
    timer = entry.get("tfd")
    if not timer or timer["vsec"] or timer["vnsec"] or not (timer["isec"] or timer["insec"]):
        return False
    timer["vnsec"] = 1
    return True


def _sleep_on(entry: Json) -> bool:
    """Make the call again, with what is left of the sleep, which the kernel has put where the program wanted it."""
    registers = entry.get("thread_info", {}).get("gpregs", {})
    call = registers.get("orig_ax")
    if registers.get("ax") != EINTR or call not in (NANOSLEEP, CLOCK_NANOSLEEP):
        return False
    if call == NANOSLEEP and registers["si"]:
        registers["di"] = registers["si"]
    if call == CLOCK_NANOSLEEP and registers["r10"]:
        registers["dx"] = registers["r10"]
    registers["ax"] = call
    registers["ip"] -= SYSCALL_BYTES
    return True
