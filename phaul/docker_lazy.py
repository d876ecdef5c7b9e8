"""A dump without memory: `runc checkpoint --lazy-pages`, whose page server is told at once that nobody wants any.

CRIU writes everything but the pages that can come later, says so on its status descriptor and then
serves those pages to whoever is at the other end of a socket (criu(8), --lazy-pages, --status-fd); when
that ends it ends well. P.Haul reads the pages from the frozen tasks instead, as often as they are asked for.

The socket is one that CRIU is born with (--ps-socket): it listens nowhere.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
from pathlib import Path

from phaul import run

LOG = logging.getLogger("phaul.dump")
# runc insists on one, and CRIU does not look at it.
NO_SERVER = "127.0.0.1:1"
END_SECONDS = 3600


class LazyDump:
    """`process` is runc, which reads `configuration` as CRIU's: what has to be in it is put there."""

    def __init__(self, argv: list[str | Path], container: str, *, configuration: Path, env: dict[str, str]) -> None:
        self._end = threading.Thread(target=self._see_off, name="dump-end", daemon=True)
        self._pages, asker = socket.socketpair()
        self._status, status = os.pipe()
        with configuration.open("a") as file:
            file.write(f"ps-socket {asker.fileno()}\n")
        words = [*argv, "--lazy-pages", "--page-server", NO_SERVER, "--status-fd", str(status), container]
        try:
            self.process = run.start(words, env=env, pass_fds=(status, asker.fileno()))
        finally:
            os.close(status)
            asker.close()

    def written(self, timeout: float) -> bool:
        """Whether the images are written; then CRIU ends in its own time. False: it has ended without, or must be."""
        ready, _, _ = select.select([self._status], [], [], timeout)
        if not ready or os.read(self._status, 1) == b"":
            return False
        self._let_go()
        return True

    def _let_go(self) -> None:
        self._pages.close()
        self._end.start()

    def ended_well(self, timeout: float) -> bool:
        """Whether it has, or does within so many seconds, after all was written."""
        self._end.join(timeout)
        return self.process.returncode == 0

    def _see_off(self) -> None:
        done = run.ended(self.process, timeout=END_SECONDS)
        if done.code:
            LOG.warning("runc checkpoint ended with %d after the images were written: %s", done.code, done.last_words)

    def close(self) -> None:
        self._pages.close()
        os.close(self._status)
