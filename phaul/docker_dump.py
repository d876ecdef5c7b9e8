"""Dumping a container beneath the engine: `runc checkpoint` on the engine's own state directory.

It is begun while the tasks run. CRIU calls poise.sh before it looks at them, which says so on the
fifo `poised` of the work directory and waits for a word on the fifo `go`.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from phaul import criu_api, criu_images, criu_log, diagnosis, dump_pages, dump_unseen
from phaul.docker_lazy import LazyDump
from phaul.errors import HaulFailed
from phaul.run import ended, start
from phaul.tasks import Crew

ENGINE_RUN = Path("/run/docker")
DUMP_SECONDS = 3600
POISE_SECONDS, END_SECONDS = 60, 10
POISED, GO = "poised", "go"
SCRIPT = Path(__file__).with_name("poise.sh")
CONFIGURATION = f"ghost-limit 2047M\naction-script {SCRIPT}\n"
SKIP, SKIPS = "skip-in-flight", (1, 3)
IGNORES_CGROUPS = (1, 2)  # runc that can leave cgroups out of the images


def runtime_root(container: str) -> Path:
    """The directory that the engine gives runc as --root. Raises HaulFailed (no-runtime-state)."""
    for state in ENGINE_RUN.glob(f"runtime-*/moby/{container}/state.json"):
        return state.parent.parent
    raise HaulFailed(
        f"The engine keeps no runc state of {container[:12]} under {ENGINE_RUN}: is its runtime another than runc?",
        code="no-runtime-state",
    )


def cgroup_switches(runc: tuple[int, ...]) -> list[str]:
    """What makes CRIU leave cgroups alone, for a runc of that version; none where it cannot be told so."""
    return ["--manage-cgroups-mode", "ignore"] if runc >= IGNORES_CGROUPS else []


class Dump:
    """A dump that waits for finish(), when the tasks are frozen, as they stay.

    Without memory where it is to be `lazy`; CRIU does not even see it, where the kernel tells P.Haul of all of it.
    `runc` is its version, `network` what CRIU's configuration says of connections.
    """

    def __init__(
        self,
        container: str,
        *,
        images: Path,
        work: Path,
        network: list[str],
        runc: tuple[int, ...],
        lazy: bool,
    ) -> None:
        self.network = network
        self._images, self._work = images, work
        self._ignore = cgroup_switches(runc)
        self._gone = False
        self._poised, self._go = _fifo(work / POISED), _fifo(work / GO)
        self._cover = dump_unseen.Cover() if lazy and dump_unseen.possible() else None
        argv: list[str | Path] = [
            *(dump_unseen.WRAPPER if self._cover else ()),
            *("runc", "--root", runtime_root(container), "checkpoint", "--leave-running"),
        ]
        # A socket that was connected once needs --tcp-established even when the kernel lists it no more.
        argv += ["--image-path", images, "--work-path", work, "--file-locks", "--tcp-established", *self._ignore]
        if SKIP in network and runc >= SKIPS:
            argv.append("--tcp-skip-in-flight")  # such a runc says yes or no to CRIU, whatever its configuration says
        fifos = {"PHAUL_POISED": str(work / POISED), "PHAUL_GO": str(work / GO)}
        configuration = _configuration(work, network)
        env = {"CRIU_CONFIG_FILE": str(configuration), **fifos}
        self._lazy = LazyDump(argv, container, configuration=configuration, env=env) if lazy else None
        self._process = self._lazy.process if self._lazy else start([*argv, container], env=env)

    def until_poised(self) -> None:
        """Wait until CRIU is about to look at the tasks. Raises HaulFailed (dump)."""
        process = os.pidfd_open(self._process.pid)
        ready, _, _ = select.select([self._poised, process], [], [], POISE_SECONDS)
        os.close(process)
        if self._poised not in ready:
            self._fail()

    def finish(self, pids: list[int]) -> None:
        """The tasks are frozen: write the images. Raises HaulFailed (dump) with CRIU's deciding line, (gone, pages)."""
        self._gone = True
        hidden = self._cover.hide(pids, self._process.pid) if self._cover else []
        with Crew() as crew:
            looked = crew.add(dump_unseen.look, hidden)
            os.write(self._go, b"go\n")
            if not self._is_written():
                self._fail()
        dump_pages.add(self._images, looked.result())
        criu_images.mend(self._images, self._work / "dump.log")
        if not self._ignore:
            criu_images.leave_cgroups(self._images)

    def _is_written(self) -> bool:
        if self._lazy:
            return self._lazy.written(DUMP_SECONDS)
        return ended(self._process, timeout=DUMP_SECONDS).code == 0

    def await_end(self) -> None:
        """CRIU has let go of the tasks, and left them as frozen as they were. Raises HaulFailed (dump)."""
        if not (self._lazy.ended_well(END_SECONDS) if self._lazy else self._process.wait(END_SECONDS) == 0):
            raise HaulFailed("CRIU was ended before it had let go of the tasks.", code="dump")

    def _fail(self) -> NoReturn:
        # A CRIU that has not ended is left alone: killed now, it would leave its code in the tasks.
        done = ended(self._process, timeout=END_SECONDS)
        line = criu_log.deciding_line(self._work / "dump.log")
        sentence, said = diagnosis.told("CRIU could not dump the container", line or done.last_words)
        raise HaulFailed(sentence, code="dump", detail=f"{said}\n{done.err}".strip())

    def close(self) -> None:
        """What has not been told to go on is called off."""
        if not self._gone:
            os.write(self._go, b"stop\n")
            ended(self._process, timeout=END_SECONDS)
        if self._lazy:
            self._lazy.close()
        if self._cover:
            self._cover.close()
        for name, descriptor in ((POISED, self._poised), (GO, self._go)):
            os.close(descriptor)
            (self._work / name).unlink()


def call_off(work: Path) -> None:
    """End a dump in that work directory whose p.haul has died before it told it to go on."""
    with contextlib.suppress(FileNotFoundError), _opened(work / POISED), _opened(work / GO) as go:
        os.write(go, b"stop\n")
        criu_api.await_end(work)


def _fifo(path: Path) -> int:
    """A new fifo, open here for reading and writing: so its other end waits for nobody, and sees our death."""
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _configuration(work: Path, network: list[str]) -> Path:
    """CRIU reads this file too: runc has no switch for large deleted files, nor for leaving the network alone."""
    configuration = work / "criu.conf"
    configuration.write_text(CONFIGURATION + "".join(f"{line}\n" for line in network))
    return configuration
