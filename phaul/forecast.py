"""What a haul's memory will mean for its downtime, said before anything is frozen."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from phaul.connection import Connection, raise_failure
from phaul.messages_pb2 import Reply
from phaul.mstats import readable
from phaul.pace import Pace

# The engine, CRIU and the frozen pass over the files, whatever the memory's size.
BASE_SECONDS = 0.3
# Bytes a second.
COMPARE_RATE = 4 << 30
TRACKED = "both kernels track what changes"
COMPARED = "in the end it is compared with what was sent, since a kernel does not track what changes"
PROBE_CHUNK, PROBE_SECONDS, PROBE_CHUNKS, PROBE_PART = 256 << 10, 0.1, 64, 64
ANSWER_SECONDS = 60


def measure(channel: Connection, *, memory: int, pace: Pace) -> float:
    """Bytes a second that the channel "speed" takes: for PROBE_SECONDS, and a small part of the memory at most."""
    noise = os.urandom(PROBE_CHUNK)
    count = min(PROBE_CHUNKS, max(1, memory // PROBE_PART // PROBE_CHUNK))
    sent = 0
    began = time.monotonic()

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(count):
            pace.keep(len(noise))
            sent += len(noise)
            yield noise
            if time.monotonic() - began > PROBE_SECONDS:
                return

    with contextlib.closing(channel.link):
        channel.link.send_chunks(chunks())
        reply = channel.recv(Reply, timeout=ANSWER_SECONDS)
    if reply.HasField("failure"):
        raise_failure(reply.failure)
    return sent / max(1e-6, time.monotonic() - began)


def sentence(*, memory: int, rate: float, mode: str, lazy: bool, rounds: str, budget_ms: int | None) -> str:
    """One line for people: how long it will stand still, and why; `rate` in bytes a second.

    `rounds` is how it is known what to send in the last one, TRACKED or COMPARED; "" where there are none.
    """
    whole = BASE_SECONDS + memory / rate
    how = f"{readable(memory)} of memory at {readable(rate)}/s"
    if lazy and mode == "postcopy":
        follow = f"{how} follow and it depends on this host meanwhile"
        return f"Expected downtime {BASE_SECONDS:.1f} s: released at once, {follow}."
    if rounds:
        base = BASE_SECONDS + (memory / COMPARE_RATE if rounds == COMPARED else 0)
        last = f"Expected downtime {base:.1f} s, and what the last round takes"
        return f"{last}: {how} go in rounds while it runs; {rounds}."
    if lazy and budget_ms is not None and budget_ms / 1000 < whole:
        follows = f"what is missing of {how} follows and it depends on this host meanwhile"
        return f"Expected downtime {max(BASE_SECONDS, budget_ms / 1000):.1f} s: released then, {follows}."
    shorter = f"; --mode postcopy: about {BASE_SECONDS:.1f} s" if lazy and whole > 2 * BASE_SECONDS else ""
    return f"Expected downtime {whole:.1f} s: released when {how} are there{shorter}."
