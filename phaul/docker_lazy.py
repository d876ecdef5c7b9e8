"""A dump without memory: `runc checkpoint --lazy-pages`, whose page server is told at once that nobody wants any.

CRIU writes everything but the pages that can come later, says so on its status descriptor and then
serves those pages to one TCP connection (criu(8), --lazy-pages, --status-fd); when that ends it ends
well. P.Haul reads the pages from the frozen tasks instead, as often as they are asked for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
from pathlib import Path

from phaul import run
from phaul.private_net import LOOPBACK, PrivateNet

LOG = logging.getLogger("phaul.dump")
PORT = 27000
CONNECT_SECONDS = 10
END_SECONDS = 3600


class LazyDump:
    """In a network namespace of our own. `process` is runc."""

    def __init__(self, argv: list[str | Path], container: str, *, net: PrivateNet, env: dict[str, str]) -> None:
        self._net = net
        self._status, theirs = os.pipe()
        words = [*argv, "--lazy-pages", "--page-server", f"{LOOPBACK}:{PORT}", "--status-fd", str(theirs), container]
        try:
            self.process = net.call(run.start, words, env=env, pass_fds=(theirs,))
        finally:
            os.close(theirs)

    def written(self, timeout: float) -> bool:
        """Whether the images are written; then CRIU ends in its own time. False: it has ended without, or must be."""
        ready, _, _ = select.select([self._status], [], [], timeout)
        if not ready or os.read(self._status, 1) == b"":
            return False
        self._net.call(_ask_for_nothing)
        threading.Thread(target=self._see_off, name="dump-end", daemon=True).start()
        return True

    def _see_off(self) -> None:
        done = run.ended(self.process, timeout=END_SECONDS)
        if done.code:
            LOG.warning("runc checkpoint ended with %d after the images were written: %s", done.code, done.last_words)

    def close(self) -> None:
        os.close(self._status)


def _ask_for_nothing() -> None:
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, PORT), CONNECT_SECONDS):
        pass
