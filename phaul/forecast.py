"""What a haul's memory will mean for its downtime, said before anything is frozen, and whether to compress it."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from phaul import codec
from phaul.connection import Connection, raise_failure
from phaul.errors import ProtocolError
from phaul.messages_pb2 import Reply
from phaul.mstats import readable
from phaul.pace import Pace

# The engine, CRIU and the frozen pass over the files, whatever the memory's size.
BASE_SECONDS = 0.3
# Bytes a second.
COMPARE_RATE = 4 << 30
TRACKED = "both kernels track what changes"
COMPARED = "in the end it is compared with what was sent, since a kernel does not track what changes"
CHANNEL = "speed"
PROBE_CHUNK, PROBE_SECONDS, PROBE_CHUNKS, PROBE_PART = 256 << 10, 0.2, 64, 64
PROBE_BYTES = PROBE_CHUNKS * PROBE_CHUNK
RATE = re.compile(r"[1-9][0-9]{0,14}")
ANSWER_SECONDS = 60
# What is to be compressed for a trial at most, for how long, and how much faster it must be with it.
SAMPLE, TRIAL_SECONDS, GAIN = 4 << 20, 0.04, 1.25


@dataclass(frozen=True)
class Trial:
    """What compressing a sample showed: how much of it was left, and bytes of it a second."""

    share: float
    rate: float

    def over(self, link: float) -> float:
        """Bytes a second, before they are packed, over a link that takes `link` bytes a second."""
        return min(self.rate, link / self.share)


@dataclass(frozen=True)
class Way:
    """How memory will go: packed with `codec` or plain (""), at so many of its bytes a second; `why` is for people."""

    codec: str
    rate: float
    why: str = ""


def measure(channel: Connection, *, memory: int, pace: Pace) -> float:
    """Bytes a second that the channel "speed" takes: for PROBE_SECONDS, and a small part of the memory at most.

    By the target's word, which saw the later half come; by our own for a single chunk.
    """
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
    seen = reply.done.note
    return float(seen) if RATE.fullmatch(seen) else sent / max(1e-6, time.monotonic() - began)


def pace_of(channel: Connection) -> str:
    """How fast what comes on the channel "speed" came, of which nothing is kept. Raises ProtocolError for too much."""
    came = []
    left = PROBE_BYTES
    for chunk in channel.link.recv_chunks():
        came.append((time.monotonic(), len(chunk)))
        left -= len(chunk)
        if left < 0 or len(came) > PROBE_CHUNKS:
            raise ProtocolError(f"{channel.peer} sends more than is needed to measure the link.")
    return later_pace(came)


def later_pace(came: list[tuple[float, int]]) -> str:
    """Bytes a second of the later half of chunks, by moments and lengths: TCP is at speed then. "" for a single one."""
    later = came[(len(came) - 1) // 2 :]
    if len(later) < 2:
        return ""
    return str(int(sum(length for _, length in later[1:]) / max(1e-6, later[-1][0] - later[0][0])))


def attempt(pieces: list[bytes]) -> Trial | None:
    """Compress the pieces, for TRIAL_SECONDS at most; None where there are none."""
    packer = codec.Packer()
    before = after = 0
    began = time.monotonic()
    for piece in pieces:
        before, after = before + len(piece), after + len(packer.pack(piece) or piece)
        if time.monotonic() - began > TRIAL_SECONDS:
            break
    return Trial(after / before, before / max(1e-6, time.monotonic() - began)) if before else None


def choose(wish: str, trial: Trial | None, link: float) -> Way:
    """By the wish ("auto", "zstd" or "none"), a trial where one could be made, and the link's bytes a second."""
    if wish == "none" or (wish == "auto" and trial is None):
        return Way("", link)
    if trial is None:
        return Way(codec.NAME, link, f"Compressed ({codec.NAME}).")
    rate = trial.over(link)
    what = f"({codec.NAME}, {trial.share:.2f} of it)"
    if wish == codec.NAME:
        return Way(codec.NAME, rate, f"Compressed {what}, as asked for.")
    if rate >= GAIN * link:
        return Way(codec.NAME, rate, f"Compressed {what}: the link is slower than the codec.")
    if GAIN * trial.share > 1:
        return Way("", link, f"Not compressed {what}: it hardly gets smaller.")
    return Way("", link, f"Not compressed {what}: the codec is hardly faster than the link.")


@dataclass(frozen=True)
class Expected:
    """Seconds that it is expected to stand still, and a sentence on that; the rest of the time is not in them."""

    downtime: float
    words: str


def expect(*, memory: int, way: Way, mode: str, lazy: bool, rounds: str, budget_ms: int | None) -> Expected:
    """How long it will stand still, and why.

    `rounds` is how it is known what to send in the last one, TRACKED or COMPARED; "" where there are none.
    """
    still = downtime(memory=memory, rate=way.rate, mode=mode, lazy=lazy, rounds=rounds, budget_ms=budget_ms)
    said = f"Expected downtime {still:.1f} s{_why(memory, way.rate, mode, lazy, rounds, budget_ms)}."
    return Expected(still, " ".join(filter(None, (said, way.why))))


def downtime(
    *, memory: int, rate: float, mode: str, lazy: bool, rounds: str, budget_ms: int | None, last: int = 0
) -> float:
    """The expected seconds; `last` is how many bytes the last round has to send, as far as that is known."""
    if lazy and mode == "postcopy":
        return BASE_SECONDS
    whole = BASE_SECONDS + (last if rounds else memory) / rate
    if rounds == COMPARED:
        whole += memory / COMPARE_RATE
    if lazy and budget_ms is not None:
        return min(whole, max(BASE_SECONDS, budget_ms / 1000))
    return whole


def _why(memory: int, rate: float, mode: str, lazy: bool, rounds: str, budget_ms: int | None) -> str:
    whole = BASE_SECONDS + memory / rate
    how = f"{readable(memory)} of memory at {readable(rate)}/s"
    if lazy and mode == "postcopy":
        return f": released at once, {how} follow and it depends on this host meanwhile"
    if rounds:
        return f", and what the last round takes: {how} go in rounds while it runs; {rounds}"
    if lazy and budget_ms is not None and budget_ms / 1000 < whole:
        return f": released then, what is missing of {how} follows and it depends on this host meanwhile"
    shorter = f"; --mode postcopy: about {BASE_SECONDS:.1f} s" if lazy and whole > 2 * BASE_SECONDS else ""
    return f": released when {how} are there{shorter}"
