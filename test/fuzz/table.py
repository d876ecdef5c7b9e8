"""What a target is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec

from phaul.errors import PhaulError

from .mutators import Mutator


@dataclass(frozen=True)
class Target:
    """`run` is called within `stage`, any number of times. `needs` is a module without which there is no target."""

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    stage: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
    expected: tuple[type[Exception], ...] = (PhaulError,)
    longest: int = 2048  # bytes; what is longer has nothing new for it
    needs: str = ""
    mutate: Mutator | None = None  # beside what is done to plain bytes

    @property
    def missing(self) -> str:
        """Why it cannot run here; "": it can."""
        if self.needs and not find_spec(self.needs):
            return f"the module {self.needs} is not in this environment"
        return ""

    def once(self, data: bytes) -> None:
        """Raises what no parser may."""
        with contextlib.suppress(*self.expected):
            self.run(data)
