"""The docker engine's API over its socket, for what would be slow through the command line."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import LabError

TIMEOUT_S = 60


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, *, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


@dataclass(frozen=True)
class Engine:
    """One host's engine. Every call is a connection of its own."""

    socket: Path

    def call(self, method: str, path: str, *, timeout: float = TIMEOUT_S) -> tuple[int, bytes]:
        """HTTP status and body. Raises OSError where nothing answers."""
        connection = UnixConnection(self.socket, timeout=timeout)
        try:
            connection.request(method, path)
            reply = connection.getresponse()
            return reply.status, reply.read()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from None
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The JSON at the path. Raises LabError for an error status."""
        status, body = self.call("GET", path)
        if status >= http.client.BAD_REQUEST:
            raise LabError(f"GET {path}: {status} {body.decode(errors='replace')}")
        return json.loads(body)

    def delete(self, path: str) -> None:
        """Delete a thing; one that is not there is fine. Raises LabError for another error."""
        status, body = self.call("DELETE", path)
        if status >= http.client.BAD_REQUEST and status != http.client.NOT_FOUND:
            raise LabError(f"DELETE {path}: {status} {body.decode(errors='replace')}")

    def answers(self) -> bool:
        """Whether the engine is there and well."""
        try:
            return self.call("GET", "/_ping", timeout=10)[0] == http.client.OK
        except OSError:
            return False
