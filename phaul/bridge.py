#!/usr/bin/python3 -IS
"""What rsync takes for its remote shell: joins stdin and stdout to the socket that is descriptor argv[1]."""

import os
import socket
import sys
import threading

SIZE = 1 << 18


def pump(source: int, sink: int) -> None:
    while data := os.read(source, SIZE):
        left = memoryview(data)
        while left:
            left = left[os.write(sink, left) :]


def upward(channel: socket.socket) -> None:
    try:
        pump(0, channel.fileno())
        channel.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    threading.Thread(target=upward, args=(channel,), daemon=True).start()
    try:
        pump(channel.fileno(), 1)
    except OSError:
        pass


if __name__ == "__main__":
    main()
