"""Noticing at once that a host is trusted no more: the kernel tells when pinned certificates come and go."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from phaul import inotify
from phaul.inotify import Inotify

LOG = logging.getLogger("phaul.listener")
_CHANGES = inotify.CREATE | inotify.DELETE | inotify.MOVED_FROM | inotify.MOVED_TO | inotify.CLOSE_WRITE


class PinWatch:
    """Readable for poll(2) once something has changed in the directory of pins, or it has come or gone itself."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._inotify: Inotify | None = None
        try:
            self._inotify = Inotify()
            self._inotify.add(str(directory.parent), _CHANGES | inotify.ONLY_DIRECTORIES)
        except OSError as error:
            LOG.warning("connections of hosts that are revoked will not be ended at once: %s", error.strerror)
            self.close()
        self.renew()

    def fileno(self) -> int | None:
        return self._inotify.fileno() if self._inotify else None

    def renew(self) -> None:
        """Forget what has happened until now, and look at the directory that is there now."""
        if self._inotify:
            while list(self._inotify.read()):
                pass
            with contextlib.suppress(OSError):
                self._inotify.add(str(self._directory), _CHANGES | inotify.ONLY_DIRECTORIES)

    def close(self) -> None:
        if self._inotify:
            self._inotify.close()
            self._inotify = None
