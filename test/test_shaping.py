"""A slow, long link between the lab's hosts."""

from __future__ import annotations

import re
import subprocess
import time

from lab import Host, Lab, shaping

PORT = 9001
MIB = 1 << 20
RECEIVER = (
    "import socket; s = socket.create_server(('', %d)); print(flush=True); c = s.accept()[0]\nwhile c.recv(65536): pass"
)
SENDER = "import socket, sys; c = socket.create_connection((sys.argv[1], %d)); c.sendall(bytes(int(sys.argv[2]))); "
SENDER += "c.shutdown(1); c.recv(1)"


def round_trip_ms(source: Host, target: Host) -> float:
    said = source.run("busybox", "ping", "-c", "3", "-A", target.ip).out
    return min(float(time) for time in re.findall(r"time=([\d.]+) ms", said))


def seconds(source: Host, target: Host, count: int) -> float:
    """How long so many bytes take on a TCP connection."""
    receiver = target.popen("python3", "-ISc", RECEIVER % PORT, stdout=subprocess.PIPE)
    try:
        receiver.stdout.readline()
        begun = time.monotonic()
        source.run("python3", "-ISc", SENDER % PORT, target.ip, str(count))
        return time.monotonic() - begun
    finally:
        receiver.kill()
        receiver.communicate()


def test_a_link_has_its_rate_and_its_delay_for_as_long_as_it_is_wanted(clean_lab: Lab) -> None:
    a, b = clean_lab.hosts
    with shaping.link(clean_lab, mbit=200, round_trip_ms=20):
        assert 20 <= round_trip_ms(a, b) < 40
        # 64 MiB at 200 Mbit/s are 2.7 s
        assert 2.5 < seconds(a, b, 64 * MIB) < 6
    assert round_trip_ms(a, b) < 10
    assert seconds(a, b, 64 * MIB) < 2


def test_what_carries_the_frames_is_gone_afterwards(clean_lab: Lab) -> None:
    with shaping.link(clean_lab, mbit=100, round_trip_ms=2):
        assert carriers()
    assert not carriers()


def carriers() -> list[str]:
    listed = subprocess.run(["ps", "-eo", "comm"], capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split() if name == "delay"]
