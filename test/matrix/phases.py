"""Where a haul stands still while something is broken, and the modes in which it is hauled."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE, TARGET = "source", "target"
AUTO, POSTCOPY, STOPCOPY = "auto", "postcopy", "stopcopy"


@dataclass(frozen=True)
class Mode:
    """`options` are p.haul's."""

    name: str
    options: tuple[str, ...]


MODES = (
    Mode(AUTO, ()),
    Mode(POSTCOPY, ("--mode", "postcopy", "--postcopy-timeout", "3")),
    Mode(STOPCOPY, ("--mode", "stopcopy")),
)


@dataclass(frozen=True)
class Phase:
    """`program` is whose halts, p.haul at the source or the service at the target, at the `point` of at_point.py.

    With `action` it is that host's CRIU that halts, at this action of criu(8), --action-script; `conf` is the
    configuration of CRIU that the script is added to at the point. `criu` is whose CRIU lives meanwhile. There
    is such a phase in `modes`, in others not, for the reason `but`. `options` are more of p.haul's.
    """

    name: str
    program: str
    point: str
    words: str
    action: str = ""
    conf: str = ""
    criu: str = ""
    modes: tuple[str, ...] = (AUTO, POSTCOPY, STOPCOPY)
    but: str = ""
    options: tuple[str, ...] = ()


PHASES = (
    Phase("check", SOURCE, "before=phaul.preflight:plan", "connected, nothing is asked yet"),
    Phase("prepare", TARGET, "push=container", "the network is there, the container is about to be made"),
    Phase("sync", TARGET, "before=phaul.fs_haul:receive", "the first files are about to come"),
    Phase(
        "pre-copy",
        SOURCE,
        "before=phaul.prospect:Prospect.in_round#2",
        "the first round of memory is sent",
        modes=(AUTO,),
        but="all memory goes when it is frozen, or later",
    ),
    Phase(
        "poise",
        TARGET,
        "after=phaul.docker_restore:Starting.until_poised",
        "runc waits for images at the target, CRIU for the freeze at the source",
        criu=SOURCE,
    ),
    Phase(
        "freeze",
        SOURCE,
        "after=phaul.docker_source:DockerSource.freeze",
        "paused by the engine, not yet dumped",
        criu=SOURCE,
    ),
    Phase(
        "dump",
        SOURCE,
        "before=phaul.docker_lazy:LazyDump.__init__",
        "CRIU holds the tasks, and has nearly done",
        action="post-dump",
        conf="/var/lib/phaul/work/*/criu.conf",
        criu=SOURCE,
    ),
    Phase(
        "dumped",
        SOURCE,
        "before=phaul.docker_lazy:LazyDump._let_go",
        "the images are written, CRIU has not yet let go of the tasks",
        criu=SOURCE,
    ),
    Phase("images", TARGET, "before=phaul.images:_receive_one#3", "two of CRIU's images have come"),
    Phase(
        "restore",
        TARGET,
        "before=phaul.docker_restore:Starting.until_held",
        "CRIU has made the first task",
        action="setup-namespaces",
        conf="/run/phaul/restore/*/criu.conf",
        criu=TARGET,
    ),
    Phase("held", TARGET, "state=held", "restored, and frozen there"),
    Phase("verify", TARGET, "before=phaul.verify:check", "about to be compared with what was frozen"),
    Phase("before COMMIT", SOURCE, "before=phaul.iters:Barrier.reach#2", "all is well, nothing is decided"),
    Phase("COMMIT", SOURCE, "state=committed", "it is in the source's journal"),
    Phase("release", TARGET, "before=phaul.session:Session.release", "the target is asked to release"),
    Phase("release written", TARGET, "state=running", "it is in the target's journal, nothing runs yet"),
    Phase("released", TARGET, "after=phaul.docker_target:DockerTarget.release", "it runs, the source does not know"),
    Phase(
        "post-copy",
        SOURCE,
        "phase=post-copy",
        "it runs, and its memory follows",
        modes=(POSTCOPY,),
        but="nothing is missing after the release",
        options=("--bandwidth", "8M"),
    ),
    Phase("finish", SOURCE, "phase=finish", "it runs whole there, the frozen copy is about to be ended"),
)
