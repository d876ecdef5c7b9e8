"""What the host that receives hauls lets a peer do to it, beyond giving it a guest."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from phaul.errors import Blocker

CODE = "not-allowed"
PRIVILEGED, BIND = "--allow-privileged", "--allow-bind"


@dataclass(frozen=True)
class Policy:
    """By default a peer may bring what is confined as the receiver confines its own, and nothing that has a part of it.

    `privileged` allows whatever the source asks for, except parts of this host's file system: those
    lie in one of the directories `binds`.
    """

    privileged: bool = False
    binds: tuple[str, ...] = ()

    def takes_path(self, path: str) -> bool:
        """Whether the path of this host, its symlinks followed, is in an allowed directory. It need not be there."""
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(os.path.realpath(allowed)) for allowed in self.binds)


STRICT = Policy()
EVERYTHING = Policy(privileged=True, binds=("/",))


def asks(name: str, words: str, here: str) -> Blocker:
    """The container of that name asks for what only --allow-privileged allows."""
    return refused(f"Container {name} asks for {words}, which {here} does not allow", PRIVILEGED, f"container {name}")


def refused(reason: str, option: str, subject: str) -> Blocker:
    """What `p.haul-service` was started without that `option`, which would allow it."""
    return Blocker(CODE, reason, f"run it without, or start p.haul-service there with {option}", subject)
