"""Directory trees to the target by rsync, over P.Haul's own channel: no login, nothing listens.

The source runs rsync as a client; the target an rsync daemon for one connection and one directory,
with chroot, whose "remote shell" is the channel. Ownership by number, ACLs, xattrs (overlay's
whiteouts and opaque marks are devices and trusted.* xattrs), hard links, holes.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from phaul import run
from phaul.connection import Connection
from phaul.errors import HaulFailed, LinkLost

LOG = logging.getLogger("phaul.fs")
BRIDGE = Path(__file__).with_name("bridge.py")
MODULE = "tree"
SWITCHES = (
    "-aHAXS", "--numeric-ids", "--modify-window=-1", "--stderr=client",
    # Which lower file a copied-up one came from: a handle of this host's file system, void on another.
    "--filter=-x trusted.overlay.origin", "--filter=-x trusted.overlay.impure", "--filter=-x trusted.overlay.uuid",
)  # fmt: skip
VANISHED = 24
END_SECONDS = 60

CONFIGURATION = """\
use chroot = yes
uid = 0
gid = 0
numeric ids = yes
munge symlinks = no
lock file = {work}/rsync.lock
log file = {work}/rsync.log
[{module}]
path = {path}
read only = no
"""


@dataclass(frozen=True)
class Pass:
    """How one pass over one tree went."""

    bytes_sent: int


def push(
    tree: Path,
    channel: Connection,
    *,
    live: bool,
    only: Sequence[str] | None = None,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Pass:
    """One pass over the channel; with `only`, these files by content and nothing else.

    A live pass forgives files that vanish under it. Raises HaulFailed (rsync) with rsync's words, LinkLost.
    """
    ours, theirs = socket.socketpair()
    with ours, tempfile.NamedTemporaryFile(prefix="phaul-files-") as listing:
        with theirs:
            listing.write(b"".join(os.fsencode(name) + b"\0" for name in only or ()))
            listing.flush()
            chosen = ["--ignore-times", "--from0", f"--files-from={listing.name}"]
            selected = ["--delete"] if only is None else chosen
            client = _client(tree, theirs, selected)
        try:
            sent, _ = channel.link.relay(ours, on_bytes=on_bytes)
        except LinkLost:
            run.kill(client)
            raise
        ours.close()
        _, errors = client.communicate(timeout=END_SECONDS)
    if client.returncode not in ((0, VANISHED) if live else (0,)):
        raise HaulFailed(
            f"rsync could not copy {tree}: {_words(errors)}", code="rsync", detail=errors.decode(errors="replace")
        )
    return Pass(sent)


def _client(tree: Path, channel: socket.socket, selected: list[str]) -> subprocess.Popen[bytes]:
    shell = f"{sys.executable} -IS {BRIDGE} {channel.fileno()}"
    argv = ["rsync", *SWITCHES, *selected, "-e", shell, f"{tree}/", f"target::{MODULE}/"]
    return run.start(argv, stdout=subprocess.DEVNULL, pass_fds=(channel.fileno(),))


def _words(errors: bytes) -> str:
    """rsync's first complaint: the last line only repeats the exit status."""
    lines = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
    return lines[0] if lines else "it gave no reason"


def receive(tree: Path, channel: Connection, work: Path) -> None:
    """The target's end of one push. What went wrong is told to the source by rsync itself."""
    with tempfile.TemporaryDirectory(prefix="rsync-", dir=work) as scratch:
        configuration = Path(scratch) / "rsyncd.conf"
        configuration.write_text(CONFIGURATION.format(work=scratch, module=MODULE, path=tree))
        ours, theirs = socket.socketpair()
        with ours:
            argv = ["rsync", "--server", "--daemon", f"--config={configuration}", "."]
            daemon = run.start(argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.DEVNULL)
            theirs.close()
            try:
                channel.link.relay(ours)
            finally:
                ours.close()
                run.kill(daemon)
