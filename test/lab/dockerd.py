"""Starting and ending a host's dockerd."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import LabError
from .waiting import until

if TYPE_CHECKING:
    from .host import Host

PID_FILE = "/run/docker.pid"
LOG = "/var/log/dockerd.log"
CONFIG = "/etc/docker/daemon.json"
NAMES = {"dockerd", "setsid", "sh"}  # what the process is called until it is dockerd
START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 60


@dataclass(frozen=True)
class Dockerd:
    """A host's dockerd, running or not."""

    host: Host

    def configure(self) -> None:
        """Write the configuration of a fresh host."""
        config = self.host.path(CONFIG)
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(json.dumps({"storage-driver": "overlay2"}, indent=4) + "\n")

    def launch(self) -> None:
        """Start it, not waiting for it."""
        # A killed daemon's pid may by now be another process's, which would keep dockerd from starting.
        self.host.path(PID_FILE).unlink(missing_ok=True)
        self.host.run("sh", "-c", f"setsid dockerd >>{LOG} 2>&1 </dev/null & echo $! >/run/lab-dockerd.pid")

    def wait(self) -> None:
        """Wait until it answers. Raises LabError, with the end of its log, when it does not."""
        pid = self._number("/run/lab-dockerd.pid")

        def answers_or_ended() -> bool:
            return self.host.engine.answers() or not self._alive(pid)

        until(answers_or_ended, f"dockerd of {self.host.name}", timeout=START_TIMEOUT_S)
        if not self._alive(pid):
            log = self.host.path(LOG).read_text(errors="replace")
            raise LabError(f"dockerd of {self.host.name} ended:\n{log[-3000:]}")

    def start(self) -> None:
        if not self.running:
            self.launch()
        self.wait()

    @property
    def running(self) -> bool:
        return self._alive(self._number("/run/lab-dockerd.pid"))

    def stop(self) -> None:
        self._end("TERM")

    def signal(self, name: str) -> None:
        """Send it a signal, if it runs."""
        if self.running:
            self.host.run("kill", f"-{name}", str(self._number("/run/lab-dockerd.pid")), check=False)

    def kill(self) -> None:
        self._end("KILL")

    def _end(self, signal_name: str) -> None:
        pid = self._number("/run/lab-dockerd.pid")
        if self._alive(pid):
            self.host.run("kill", f"-{signal_name}", str(pid))
            until(lambda: not self._alive(pid), f"the end of dockerd of {self.host.name}", timeout=STOP_TIMEOUT_S)

    def _number(self, path: str) -> int:
        """The number in the file; 0 where there is none."""
        try:
            return int(self.host.path(path).read_text())
        except (OSError, ValueError):
            return 0

    def _alive(self, pid: int) -> bool:
        try:
            return pid > 0 and self.host.path(f"/proc/{pid}/comm").read_text().strip() in NAMES
        except OSError:
            return False
