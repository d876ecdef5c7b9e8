"""Asking a link who has an IPv4 address, as a host does before it takes one itself (ARP probe, RFC 5227)."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time

ETH_P_ARP = 0x0806
REQUEST, REPLY = 1, 2
TRIES, WAIT_SECONDS = 3, 0.4
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_HEADER = struct.Struct("!6s6sH")


def who_has(device: str, address: str) -> set[str]:
    """The hardware addresses that answer for it, "02:42:…"; none where nobody does, or nobody can be asked."""
    wanted = socket.inet_aton(address)
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP)) as link,
    ):
        link.bind((device, ETH_P_ARP))
        own = link.getsockname()[4]
        for _ in range(TRIES):
            link.send(_probe(own, wanted))
            if found := _answers(link, wanted):
                return found
    return set()


def _probe(own: bytes, wanted: bytes) -> bytes:
    arp = _ARP.pack(1, 0x0800, 6, 4, REQUEST, own, bytes(4), bytes(6), wanted)
    return _HEADER.pack(b"\xff" * 6, own, ETH_P_ARP) + arp


def _answers(link: socket.socket, wanted: bytes) -> set[str]:
    """All that come within the wait that begins with the first question."""
    found: set[str] = set()
    until = time.monotonic() + WAIT_SECONDS
    while not found and (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select([link], [], [], left)
        if ready and (sender := sender_of(link.recv(2048), wanted)):
            found.add(sender)
    return found


def sender_of(frame: bytes, wanted: bytes) -> str:
    """The hardware address of who answers in the frame for the address; "" where it is no such answer."""
    if len(frame) < _HEADER.size + _ARP.size:
        return ""
    _, _, _, _, operation, hardware, address, _, _ = _ARP.unpack_from(frame, _HEADER.size)
    return hardware.hex(":") if operation == REPLY and address == wanted else ""
