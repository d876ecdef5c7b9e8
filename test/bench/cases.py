"""What is hauled when hauls are measured."""

from __future__ import annotations

from dataclasses import dataclass

EVERYONE = ("phaul", "criu", "runc-lazy", "script", "docker", "podman")
# The rivals that copy a container's files too.
WITH_FILES = ("phaul", "script", "docker")
ONE_MODE = ("", "auto")


@dataclass(frozen=True)
class Case:
    """A workload, where it runs, and who moves it: others would take too long, or have no such thing."""

    name: str
    mib: int
    rivals: tuple[str, ...]
    hot_mib: int = 0
    files: int = 0  # in the writable layer
    volume_mib: int = 0  # a volume of files of 1 MiB each, of which a hundredth is rewritten all the time
    link: tuple[int, float] | None = None  # Mbit/s, milliseconds there and back
    modes: tuple[str, ...] = ()  # of P.Haul, where not all: in the others it does the same with files

    def moved_by(self, rival: str) -> bool:
        """Whether the rival of that name moves it; P.Haul's are called phaul or phaul-MODE."""
        name, _, mode = rival.partition("-")
        if name == "phaul":
            return name in self.rivals and (not self.modes or mode in self.modes)
        return rival in self.rivals

    @property
    def words(self) -> str:
        """For people."""
        memory = f"{self.mib // 1024} GiB" if self.mib >= 1024 else f"{self.mib} MiB"
        more = [f"{self.hot_mib} MiB hot" if self.hot_mib else "idle"]
        more += [f"{self.files:,} files in the writable layer"] if self.files else []
        more += [f"volume of {self.volume_mib} MiB, 1 % changing"] if self.volume_mib else []
        more += [f"link of {self.link[0]} Mbit/s, {self.link[1]:g} ms"] if self.link else []
        return f"{memory}, {', '.join(more)}"


FULL = (
    Case("16m", 16, EVERYONE),
    Case("256m", 256, EVERYONE),
    Case("1g", 1024, EVERYONE),
    Case("4g", 4096, ("phaul", "criu", "runc-lazy")),
    Case("hot1", 256, ("phaul", "runc-lazy", "script"), hot_mib=1),
    Case("hot64", 256, ("phaul", "runc-lazy", "script"), hot_mib=64),
    Case("files", 16, WITH_FILES, files=100_000, modes=ONE_MODE),
    Case("volume", 16, ("phaul", "script"), volume_mib=2048, modes=ONE_MODE),
    Case("link", 256, ("phaul", "script"), link=(1000, 20)),
)
QUICK = (
    Case("16m", 16, EVERYONE),
    Case("files", 4, ("phaul",), files=500, modes=ONE_MODE),
    Case("volume", 4, ("phaul", "script"), volume_mib=100, modes=ONE_MODE),
    Case("link", 16, ("phaul",), hot_mib=1, link=(1000, 20)),
)
