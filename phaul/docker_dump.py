"""Dumping a paused container beneath the engine: `runc checkpoint` on the engine's own state directory."""

from __future__ import annotations

from pathlib import Path

from phaul import criu_images, criu_log
from phaul.errors import HaulFailed
from phaul.run import Done, run

ENGINE_RUN = Path("/run/docker")
DUMP_SECONDS = 3600
CONFIGURATION = "ghost-limit 2047M\n"
IGNORES_CGROUPS = (1, 2)  # runc that can leave cgroups out of the images
NO_CONNECTIONS = "network-lock skip\n"


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


def dump(container: str, *, images: Path, work: Path, connections: bool, runc: tuple[int, ...]) -> None:
    """Write the images; the tasks stay as they are, frozen. Raises HaulFailed (dump) with CRIU's deciding line.

    `runc` is its version.

    CRIU reads its own configuration from the file that CRIU_CONFIG_FILE names: runc has no switch
    for large deleted files, nor for leaving the network alone where there is nothing to lock.
    """
    configuration = work / "criu.conf"
    configuration.write_text(CONFIGURATION + ("" if connections else NO_CONNECTIONS))
    # A socket that was connected once needs --tcp-established even when the kernel lists it no more.
    ignore = cgroup_switches(runc)
    switches = ["--file-locks", "--tcp-established", *ignore]
    argv: list[str | Path] = ["runc", "--root", runtime_root(container), "checkpoint", "--leave-running"]
    argv += ["--image-path", images]
    done = run(
        [*argv, "--work-path", work, *switches, container],
        timeout=DUMP_SECONDS,
        check=False,
        env={"CRIU_CONFIG_FILE": str(configuration)},
    )
    if done.code:
        raise HaulFailed(_why(done, work / "dump.log"), code="dump", detail=done.err)
    criu_images.mend(images, work / "dump.log")
    if not ignore:
        criu_images.leave_cgroups(images)


def _why(done: Done, log: Path) -> str:
    line = criu_log.deciding_line(log)
    return f"CRIU could not dump the container: {line or done.last_words}"
