"""Runs in a machine of the lab: starts the commands that the lab sends, and connects it to sockets.

A connection begins with a line of JSON: {"token", "argv", "env"} or {"token", "connect": PATH}.
With `connect` it becomes the socket's. With `argv` both sides send frames, each of a letter, the
length in four bytes and so many bytes. To here: i (standard input; empty: its end), s (a signal
for the command), g (SIGKILL for its process group). From here: o and e (what it prints), x (how
it ended: a status, or a signal's number made negative). A command whose connection ends is killed.
"""

import json
import os
import select
import signal
import socket
import struct
import subprocess

PORT = 7070
CHUNK = 1 << 16
ENOUGH = 1 << 20


def main():
    open("/proc/self/comm", "w").write("lab-agent")
    token = open("/etc/lab-token").read().strip()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = socket.create_server(("10.0.2.15", PORT), backlog=64)
    while True:
        peer, _ = server.accept()
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                serve(peer, token)
            finally:
                os._exit(0)
        peer.close()


def serve(peer, token):
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line = b""
    while not line.endswith(b"\n"):
        byte = peer.recv(1)
        if not byte:
            return
        line += byte
    wish = json.loads(line)
    if wish["token"] != token:
        return
    if "connect" in wish:
        relay(peer, wish["connect"])
    else:
        Command(peer, wish).run()


def relay(peer, path):
    other = socket.socket(socket.AF_UNIX)
    other.connect(path)
    ways = {peer: other, other: peer}
    while ways:
        for source in select.select(list(ways), [], [])[0]:
            data = source.recv(CHUNK)
            if data:
                ways[source].sendall(data)
            else:
                ways.pop(source).shutdown(socket.SHUT_WR)


class Command:
    """One command under way."""

    def __init__(self, peer, wish):
        self.peer = peer
        self.wish = wish
        self.arrived = b""
        self.input = b""
        self.input_ended = False

    def run(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        try:
            self.process = subprocess.Popen(
                self.wish["argv"], env=self.wish["env"], start_new_session=True, bufsize=0, cwd="/", **pipes
            )
        except OSError as error:
            self.send(b"e", f"lab: {error}\n".encode())
            self.send(b"x", b"127")
            return
        os.set_blocking(self.process.stdin.fileno(), False)
        try:
            self.follow()
        except OSError:
            self.process.kill()

    def follow(self):
        ended = os.pidfd_open(self.process.pid)
        outputs = {self.process.stdout.fileno(): b"o", self.process.stderr.fileno(): b"e"}
        while True:
            readers = [ended, *outputs, *([self.peer] if len(self.input) < ENOUGH else [])]
            writers = [self.process.stdin] if self.input and self.process.stdin else []
            readable, writable, _ = select.select(readers, writers, [])
            if self.peer in readable:
                self.receive()
            if writable:
                self.feed()
            for descriptor in [known for known in outputs if known in readable]:
                if not self.forward(descriptor, outputs[descriptor]):
                    del outputs[descriptor]
            if ended in readable:
                break
        self.drain(outputs)
        self.send(b"x", str(self.process.wait()).encode())

    def forward(self, descriptor, letter):
        data = os.read(descriptor, CHUNK)
        if data:
            self.send(letter, data)
        return data

    def drain(self, outputs):
        """What it had printed; others that still hold the pipes are not waited for."""
        for descriptor, letter in outputs.items():
            while select.select([descriptor], [], [], 0)[0] and self.forward(descriptor, letter):
                pass

    def send(self, letter, data):
        self.peer.sendall(letter + struct.pack("!I", len(data)) + data)

    def receive(self):
        data = self.peer.recv(CHUNK)
        if not data:
            raise ConnectionResetError
        self.arrived += data
        while len(self.arrived) >= 5:
            length = struct.unpack("!I", self.arrived[1:5])[0]
            if len(self.arrived) < 5 + length:
                return
            letter, content = self.arrived[:1], self.arrived[5 : 5 + length]
            self.arrived = self.arrived[5 + length :]
            self.obey(letter, content)

    def obey(self, letter, content):
        if letter == b"i":
            self.input += content
            self.input_ended = self.input_ended or not content
            self.close_input()
        elif letter == b"s":
            self.process.send_signal(int(content))
        elif letter == b"g":
            os.killpg(self.process.pid, signal.SIGKILL)

    def feed(self):
        try:
            written = os.write(self.process.stdin.fileno(), self.input[:CHUNK])
            self.input = self.input[written:]
        except BrokenPipeError:
            self.input, self.input_ended = b"", True
        self.close_input()

    def close_input(self):
        if self.input_ended and not self.input and self.process.stdin:
            self.process.stdin.close()
            self.process.stdin = None


if __name__ == "__main__":
    main()
