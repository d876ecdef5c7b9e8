"""The docker engine's API over its socket, for what would be slow through the command line."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .errors import LabError

TIMEOUT_S = 60


class EngineConnection(http.client.HTTPConnection):
    def __init__(self, engine: Engine, *, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self.engine = engine

    def connect(self) -> None:
        self.sock = self.engine.dial(self.timeout)


@dataclass(frozen=True)
class Engine:
    """One host's engine. Every call is a connection of its own."""

    socket: Path

    def dial(self, timeout: float) -> socket.socket:
        """A connection to the socket."""
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(timeout)
        peer.connect(str(self.socket))
        return peer

    def call(self, method: str, path: str, *, timeout: float = TIMEOUT_S) -> tuple[int, bytes]:
        """HTTP status and body. Raises OSError where nothing answers."""
        connection = EngineConnection(self, timeout=timeout)
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

    def archive(self, container: str, path: str) -> bytes:
        """A file of a container as a tar file. Raises LabError where there is none."""
        status, body = self.call("GET", f"/containers/{container}/archive?path={quote(path)}")
        if status >= http.client.BAD_REQUEST:
            raise LabError(f"{container}:{path}: {status} {body.decode(errors='replace')}")
        return body

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
