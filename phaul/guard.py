"""A second process that outlives the first: if p.haul or p.haul-service dies, it settles what was under way.

It waits on a pipe from its principal. A "." and the end mean that all is well; the end alone means
that the principal died. Run as `python3 -m phaul.guard target` or `… source <haul>`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


class Guard:
    """The principal's end."""

    def __init__(self, *words: str) -> None:
        command = [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(PROJECT)!r}); from phaul.guard import main; main()",
        ]
        self._process = subprocess.Popen(
            [*command, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """All is well; the guard leaves."""
        if self._process.poll() is None:
            try:
                self._process.communicate(b".", timeout=10)
            except (subprocess.TimeoutExpired, BrokenPipeError):
                self._process.kill()
        self._process.wait()

    def take_over(self) -> None:
        """Leave what is unsettled to the guard: it begins as soon as the journal is let go."""
        assert self._process.stdin is not None
        self._process.stdin.close()


def main() -> None:
    """The guard's own life."""
    if sys.stdin.buffer.read():
        return
    # Imported only now: a guard that is not needed costs next to nothing.
    from phaul import log, places, resolve, service

    log.setup(verbosity=0, stream=False)
    log.to_file(places.LOGS / "guard.log", most=log.MOST)
    if sys.argv[1] == "target":
        service.recover_all()
    else:
        resolve.after_death(sys.argv[2])


if __name__ == "__main__":
    main()
