#!/usr/bin/python3 -IS
"""client.py PORT TOKEN-FILE -- COMMAND...: runs a command in a machine of the lab, as if it were a child.

Its input, output and environment are this process's; signals are passed on; its end is mirrored. SIGRTMIN
kills its process group. When this process dies, so does the command (guest/agent.py has the other end).
"""

import json
import os
import resource
import select
import signal
import socket
import struct
import sys

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
CHUNK = 1 << 16
LOST = 125


def main(argv: list[str]) -> int:
    port, token, _, *command = argv
    peer = socket.create_connection(("127.0.0.1", int(port)))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with open(token) as file:
        wish = {"token": file.read().strip(), "argv": command, "env": dict(os.environ)}
    peer.sendall(json.dumps(wish).encode() + b"\n")
    for number in PASSED_ON:
        signal.signal(number, lambda got, _: send(peer, b"s", str(got).encode()))
    signal.signal(signal.SIGRTMIN, lambda *_: send(peer, b"g"))
    try:
        return follow(peer)
    except OSError:
        return LOST


def send(peer: socket.socket, letter: bytes, data: bytes = b"") -> None:
    peer.sendall(letter + struct.pack("!I", len(data)) + data)


def follow(peer: socket.socket) -> int:
    """Pass on what comes from either side until the command has ended; its status."""
    sources: list[socket.socket | int] = [peer, 0]
    arrived = b""
    while True:
        readable, _, _ = select.select(sources, [], [])
        if 0 in readable:
            data = os.read(0, CHUNK)
            send(peer, b"i", data)
            if not data:
                sources.remove(0)
        if peer in readable:
            data = peer.recv(CHUNK)
            if not data:
                return LOST
            arrived += data
            while len(arrived) >= 5 and len(arrived) >= 5 + (length := struct.unpack("!I", arrived[1:5])[0]):
                letter, content, arrived = arrived[:1], arrived[5 : 5 + length], arrived[5 + length :]
                if letter == b"x":
                    return int(content)
                write(1 if letter == b"o" else 2, content)


def write(descriptor: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except BrokenPipeError:
        pass


def end(status: int) -> None:
    """End as the command did."""
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    end(main(sys.argv[1:]))
