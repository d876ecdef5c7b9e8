"""Connections to a container in the lab: networks at the hosts' own link, and a client that knows what it was told."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hauling import inspect, wait_for
from lab import Host, Lab, images, switch
from lab.neighbour import Neighbour

LINK = "mv"
# Appends numbers to a list of redis until its input ends: each answer is the list's length then.
CLIENT = """
import json, select, socket, sys, time
server = socket.create_connection((sys.argv[1], 6379), 60)
number, longest, last, error = 0, 0.0, time.monotonic(), ""
try:
    while not select.select([sys.stdin], [], [], 0.002)[0]:
        number += 1
        server.sendall(b"RPUSH seen %d\\r\\n" % number)
        answer = b""
        while not answer.endswith(b"\\r\\n"):
            more = server.recv(100)
            if not more:
                raise OSError("closed")
            answer += more
        if answer != b":%d\\r\\n" % number:
            raise OSError(repr(answer))
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        if number == 50:
            print("writing")
except OSError as problem:
    error = str(problem) or repr(problem)
print(json.dumps({"acknowledged": number - bool(error), "longest": longest, "error": error}))
"""


def on_link(lab: Lab, number: int) -> str:
    """An address on the link between the hosts."""
    return f"{switch.subnet(lab.instance)}.{number}"


def make_link(*hosts: Host, driver: str = "macvlan", name: str = LINK, options: tuple[str, ...] = ()) -> None:
    """A network of the hosts' own link on each of them."""
    for host in hosts:
        link = host.ip.rpartition(".")[0]
        subnet = ("--subnet", f"{link}.0/24", "--ip-range", f"{link}.192/26")  # below are the hosts themselves
        host.docker("network", "create", "-d", driver, "-o", "parent=eth0", *subnet, *options, name)


def redis(host: Host, *options: str, name: str = "redis") -> dict[str, Any]:
    """Redis in a container, which answers; what inspect shows of it."""
    server = ("redis-server", "--save", "", "--protected-mode", "no", "--bind", "*", "-::*")
    host.docker("run", "-d", "--name", name, *options, "apps", *server)
    wait_for(lambda: "PONG" in host.docker("exec", name, "redis-cli", "ping", check=False), "redis")
    return inspect(host, name)


@dataclass
class Told:
    """What the client was told in the end."""

    acknowledged: int = 0
    longest: float = 0.0
    error: str = ""


@contextlib.contextmanager
def writing(neighbour: Neighbour, address: str) -> Iterator[Told]:
    """A client writes through one connection until the end of the block; what comes out is filled in then."""
    told = Told()
    wait_for(lambda: neighbour.answers(address, 6379), f"somebody at {address}")
    client = neighbour.python(CLIENT, address, stdin=subprocess.PIPE)
    assert client.stdout and client.stdin
    assert client.stdout.readline() == "writing\n"
    yield told
    client.stdin.close()
    found = json.loads(client.stdout.readline())
    told.acknowledged, told.longest, told.error = found["acknowledged"], found["longest"], found["error"]


def written(host: Host, name: str = "redis") -> list[int]:
    return [int(line) for line in host.docker("exec", name, "redis-cli", "lrange", "seen", "0", "-1").split()]


def load_apps(*hosts: Host) -> None:
    for host in hosts:
        images.load(host, "apps")
