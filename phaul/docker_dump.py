"""Dumping a paused container beneath the engine: `runc checkpoint` on the engine's own state directory."""

from __future__ import annotations

from pathlib import Path

from phaul import criu_images, criu_log, docker_lazy
from phaul.errors import HaulFailed
from phaul.private_net import PrivateNet
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


def dump(
    container: str,
    *,
    images: Path,
    work: Path,
    connections: bool,
    runc: tuple[int, ...],
    lazily_in: PrivateNet | None,
) -> None:
    """Write the images, without memory where a network namespace for that is given; the tasks stay frozen.

    `runc` is its version. Raises HaulFailed (dump) with CRIU's deciding line.
    """
    argv: list[str | Path] = ["runc", "--root", runtime_root(container), "checkpoint", "--leave-running"]
    # A socket that was connected once needs --tcp-established even when the kernel lists it no more.
    ignore = cgroup_switches(runc)
    argv += ["--image-path", images, "--work-path", work, "--file-locks", "--tcp-established", *ignore]
    env = {"CRIU_CONFIG_FILE": str(_configuration(work, connections=connections))}
    if lazily_in:
        done = lazily_in.call(docker_lazy.dump, argv, container, env=env, timeout=DUMP_SECONDS)
    else:
        done = run([*argv, container], timeout=DUMP_SECONDS, check=False, env=env)
    if done.code:
        raise HaulFailed(_why(done, work / "dump.log"), code="dump", detail=done.err)
    criu_images.mend(images, work / "dump.log")
    if not ignore:
        criu_images.leave_cgroups(images)


def _configuration(work: Path, *, connections: bool) -> Path:
    """CRIU reads this file too: runc has no switch for large deleted files, nor for leaving the network alone."""
    configuration = work / "criu.conf"
    configuration.write_text(CONFIGURATION + ("" if connections else NO_CONNECTIONS))
    return configuration


def _why(done: Done, log: Path) -> str:
    line = criu_log.deciding_line(log)
    return f"CRIU could not dump the container: {line or done.last_words}"
