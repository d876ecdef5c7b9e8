"""CRIU by its RPC (images/rpc.proto of CRIU, spoken by pycriu), and waiting for a CRIU that somebody else started."""

from __future__ import annotations

import contextlib
import importlib
import os
from pathlib import Path
from typing import Any

import psutil

from phaul import criu_images, criu_log, diagnosis, freezer
from phaul.errors import Blocked, HaulFailed
from phaul.host_facts import pycriu_blockers

VERBOSE = 4
IGNORE_CGROUPS = 0


def _new() -> Any:
    try:
        pycriu = importlib.import_module("pycriu")
    except ModuleNotFoundError:
        raise Blocked(tuple(pycriu_blockers("this host"))) from None
    criu = pycriu.criu()
    criu.use_binary("criu")
    return criu


def _prepare(criu: Any, images: Path, log: str, options: dict[str, Any]) -> int:
    descriptor = os.open(images, os.O_DIRECTORY)
    criu.opts.images_dir_fd = descriptor
    criu.opts.work_dir_fd = descriptor
    criu.opts.log_file = log
    criu.opts.log_level = VERBOSE
    criu.opts.file_locks = True
    criu.opts.tcp_established = True
    criu.opts.leave_stopped = True
    criu.opts.shell_job = bool(options.get("shell_job"))
    if options.get("root"):
        criu.opts.root = options["root"]
    return descriptor


def dump(pid: int, images: Path, options: dict[str, Any]) -> None:
    """Dump the process and its descendants; they stay, stopped. Raises HaulFailed (dump) with CRIU's deciding line."""
    criu = _new()
    descriptor = _prepare(criu, images, "dump.log", options)
    criu.opts.pid = pid
    try:
        criu.dump()
    except Exception as error:
        line = criu_log.deciding_line(images / "dump.log")
        sentence, said = diagnosis.told(f"CRIU could not dump process {pid}", line or str(error))
        raise HaulFailed(sentence, code="dump", detail=said) from None
    finally:
        os.close(descriptor)
    criu_images.mend(images, images / "dump.log")


def restore(images: Path, options: dict[str, Any]) -> int:
    """Restore, stopped; the first task's pid. Raises HaulFailed (restore) with CRIU's deciding line."""
    criu = _new()
    descriptor = _prepare(criu, images, "restore.log", options)
    try:
        return int(criu.restore().pid)
    except Exception as error:
        line = criu_log.deciding_line(images / "restore.log")
        sentence, said = diagnosis.told("CRIU could not restore the process", line or str(error))
        raise HaulFailed(sentence, code="restore", detail=said) from None
    finally:
        os.close(descriptor)


def await_end(work: Path, *, timeout: float = 120) -> None:
    """Wait until no CRIU works in the directory: as it ends, it freezes or stops its tasks once more."""
    until = freezer.deadline(timeout)
    for process in psutil.process_iter(["name"]):
        if process.info["name"] in ("criu", "runc") and _works_in(process.pid, work):
            with contextlib.suppress(psutil.Error):
                process.wait(max(0.1, until - freezer.deadline(0)))


def kill(work: Path) -> None:
    """SIGKILL for every CRIU that works in the directory, and what it restores there; not for the runc that waits."""
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "criu" and _works_in(process.pid, work):
            with contextlib.suppress(psutil.Error):
                process.kill()


def _works_in(pid: int, work: Path) -> bool:
    """By its open directories, or by its command line."""
    proc = Path("/proc") / str(pid)
    with contextlib.suppress(OSError):
        if str(work).encode() in (proc / "cmdline").read_bytes():
            return True
        for entry in os.scandir(proc / "fd"):
            with contextlib.suppress(OSError):
                if Path(os.readlink(entry.path)).is_relative_to(work):
                    return True
    return False
