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
import subprocess
import threading
from pathlib import Path

from phaul import run
from phaul.private_net import LOOPBACK
from phaul.run import Done

LOG = logging.getLogger("phaul.dump")
PORT = 27000
CONNECT_SECONDS = 10


def dump(argv: list[str | Path], container: str, *, env: dict[str, str], timeout: float) -> Done:
    """Called in a network namespace of our own. Back as soon as the images are written; CRIU ends in its own time."""
    status, theirs = os.pipe()
    words = [*argv, "--lazy-pages", "--page-server", f"{LOOPBACK}:{PORT}", "--status-fd", str(theirs), container]
    try:
        runc = run.start(words, env=env, pass_fds=(theirs,))
    finally:
        os.close(theirs)
    try:
        ready, _, _ = select.select([status], [], [], timeout)
        if not ready:
            run.kill(runc)
        written = bool(ready) and os.read(status, 1) != b""
    finally:
        os.close(status)
    if not written:
        return _ended(runc)
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, PORT), CONNECT_SECONDS):
        pass
    threading.Thread(target=_see_off, args=(runc,), name="dump-end", daemon=True).start()
    return Done(("runc",), 0, "", "")


def _see_off(runc: subprocess.Popen[bytes]) -> None:
    done = _ended(runc)
    if done.code:
        LOG.warning("runc checkpoint ended with %d after the images were written: %s", done.code, done.last_words)


def _ended(runc: subprocess.Popen[bytes]) -> Done:
    out, errors = runc.communicate()
    return Done(("runc",), runc.returncode, out.decode(errors="replace"), errors.decode(errors="replace"))
