"""Directory trees to the target by rsync, over P.Haul's own channel: no login, nothing listens.

The source runs rsync as a client; the target an rsync daemon for one connection and one directory,
with chroot, whose "remote shell" is the channel. Ownership by number, ACLs, xattrs (overlay's
whiteouts and opaque marks are devices and trusted.* xattrs), hard links, holes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from phaul import run
from phaul.connection import Connection
from phaul.errors import HaulFailed, LinkLost
from phaul.relay import Count

LOG = logging.getLogger("phaul.fs")
BRIDGE = Path(__file__).with_name("bridge.py")
MODULE = "tree"
SWITCHES = (
    "-aHAXS", "--numeric-ids", "--modify-window=-1", "--stderr=client", "--from0", "--files-from=-",
    # Which lower file a copied-up one came from: a handle of this host's file system, void on another.
    "--filter=-x trusted.overlay.origin", "--filter=-x trusted.overlay.impure", "--filter=-x trusted.overlay.uuid",
)  # fmt: skip
# Everything under the names fed, by size and date; what is not at the source goes.
WHOLE = ("--recursive", "--delete")
# The same by content, and what is named but missing goes too. In one list, for hard links from here to there.
MADE = (*WHOLE, "--no-inc-recursive", "--delete-missing-args", "--ignore-times")
# These alone, directories without what is in them. In place: a file of many bytes may have changed in a few.
LISTED = ("--dirs", "--delete-missing-args", "--ignore-times", "--inplace")
TOP = (".",)
PARTIAL, VANISHED = 23, 24
# What says (by the number of its errno: ENOENT, ENXIO, ENOTDIR) that a file was removed, or replaced by a whiteout
# or by another thing, while rsync was on the way to it; and what rsync says besides.
OVERTAKEN = re.compile(
    rb"file has vanished: |rsync: \[sender\] .*: .* \((2|6|20)\)$|rsync error: .*\(code 23\)|IO error encountered|\s*$"
)
END_SECONDS = 60

# The other end may ask for nothing but what a push is, and names no path: that is a descriptor, so that no directory's
# name is read as more settings.
CONFIGURATION = """\
use chroot = yes
uid = 0
gid = 0
numeric ids = yes
munge symlinks = no
lock file = {work}/rsync.lock
log file = {work}/rsync.log
[{module}]
path = /proc/self/fd/{directory}
read only = no
write only = yes
refuse options = copy-devices write-devices
"""


class Push:
    """One pass over a tree. It greets the target at once and waits for `feed`, so that a frozen pass need not.

    `kind` is WHOLE, MADE or LISTED; `forgiven` are statuses of rsync, besides 0, that are no failure. An `idle` one
    has nothing to copy: it is never fed, and is to be stopped.
    """

    def __init__(
        self,
        tree: Path,
        channel: Connection,
        kind: tuple[str, ...],
        *,
        forgiven: tuple[int, ...],
        on_bytes: Count,
    ) -> None:
        self.idle = False
        self._tree, self._channel, self._forgiven, self._on_bytes = tree, channel, forgiven, on_bytes
        self._ours, theirs = socket.socketpair()
        with theirs:
            shell = f"{sys.executable} -IS {BRIDGE} {theirs.fileno()}"
            argv = ["rsync", *SWITCHES, *kind, "-e", shell, f"{tree}/", f"target::{MODULE}/"]
            self._client = run.start(
                argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=(theirs.fileno(),)
            )

    def feed(self, names: Iterable[str]) -> None:
        """What to copy, relative to the tree; TOP for all of it.

        What a name lies in is sent as well, by its attributes: with "./" (rsync(1), --relative) so is the tree's top.
        """
        assert self._client.stdin
        with contextlib.suppress(BrokenPipeError), self._client.stdin as listing:
            for name in names:
                listing.write(b"./" + os.fsencode(name) + b"\0")

    def _overtaken(self, errors: bytes) -> bool:
        """Whether there is nothing but what vanishing is forgiven for, though rsync calls it otherwise."""
        mere = all(OVERTAKEN.match(line) for line in errors.splitlines())
        return VANISHED in self._forgiven and self._client.returncode == PARTIAL and mere

    @property
    def partial(self) -> bool:
        """Whether something could not be copied; then rsync may have removed nothing either."""
        return self._client.returncode == PARTIAL

    @property
    def complete(self) -> bool:
        """Whether it ended without anything to forgive."""
        return self.idle or self._client.returncode == 0

    def carry(self) -> int:
        """Carry the bytes until the pass ends; how many were sent. Raises HaulFailed (rsync), LinkLost."""
        with self._ours, contextlib.closing(self._channel.link):
            try:
                sent, _ = self._channel.link.relay(self._ours, on_bytes=self._on_bytes)
            except LinkLost:
                run.kill(self._client)
                raise
        errors = self._end()
        if self._client.returncode not in (0, *self._forgiven) and not self._overtaken(errors):
            sentence = f"rsync could not copy {self._tree}: {_words(errors)}"
            raise HaulFailed(sentence, code="rsync", detail=errors.decode(errors="replace"))
        return sent

    def stop(self) -> None:
        """End it early, from another thread."""
        self._channel.link.close()
        run.kill(self._client)

    def _end(self) -> bytes:
        assert self._client.stderr
        with self._client.stderr as stream:
            errors = stream.read()
        self._client.wait(END_SECONDS)
        return errors


def _words(errors: bytes) -> str:
    """rsync's first complaint: the last line only repeats the exit status."""
    lines = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
    return lines[0] if lines else "it gave no reason"


def receive(tree: Path, channel: Connection, work: Path) -> None:
    """The target's end of one push. What went wrong is told to the source by rsync itself."""
    with tempfile.TemporaryDirectory(prefix="rsync-", dir=work) as scratch, _opened(tree) as directory:
        configuration = Path(scratch) / "rsyncd.conf"
        configuration.write_text(CONFIGURATION.format(work=scratch, module=MODULE, directory=directory))
        ours, theirs = socket.socketpair()
        with ours:
            argv = ["rsync", "--server", "--daemon", f"--config={configuration}", "."]
            daemon = run.start(
                argv,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                pass_fds=(directory,),
            )
            theirs.close()
            try:
                channel.link.relay(ours)
            finally:
                ours.close()
                run.kill(daemon)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
