"""Containers that prove something about how they were moved."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from . import cgroups, images
from .errors import LabError
from .host import Host
from .waiting import until

Ticks = list[tuple[int, float]]
TIMEOUT_S, FIRST_TICK_TIMEOUT_S = 30, 120  # the second: where memory is filled before


def counter(host: Host, name: str, *docker_args: str) -> str:
    """Start a container that writes a numbered line with the time every 10 ms; its id, once there is a line."""
    return _started(host, name, docker_args, "busybox", "ticker")


def memhog(host: Host, name: str, *docker_args: str, mib: int, hot_mib: int = 0, bits: int = 64, also: str = "") -> str:
    """Start a container with so much random memory, of which hot_mib MiB more change all the time; its id.

    `bits` of each 8-byte word are random, the others are zero, so that it can be compressed. `also` is a
    file, as the container sees it, that each line goes to before it goes to /ticks.
    """
    words = (str(mib), str(hot_mib), str(bits), *((also,) if also else ()))
    return _started(host, name, docker_args, "memhog", "memhog", *words, timeout=FIRST_TICK_TIMEOUT_S)


def shifter(host: Host, name: str, *docker_args: str, mib: int) -> str:
    """Start a container with so much memory whose mappings change all the time; its id."""
    return _started(host, name, docker_args, "shifter", "shifter", str(mib), timeout=FIRST_TICK_TIMEOUT_S)


def kinds(host: Host, name: str, *docker_args: str) -> str:
    """Start a container with memory of each kind that a program has; its id."""
    return _started(host, name, docker_args, "kinds", "kinds", timeout=FIRST_TICK_TIMEOUT_S)


def _started(
    host: Host, name: str, docker_args: Sequence[str], image: str, *command: str, timeout: float = TIMEOUT_S
) -> str:
    images.load(host, image)
    container = host.docker("run", "-d", "--name", name, *docker_args, image, *command)
    until(lambda: ticks(host, name), f"the first line of {name}", timeout=timeout)
    return container


def file_in(host: Host, name: str, path: str) -> bytes:
    """A file of a container, which may be running, frozen or ended."""
    with tarfile.open(fileobj=io.BytesIO(host.engine.archive(name, path))) as tar:
        content = tar.extractfile(tar.getmembers()[0])
        return content.read() if content else b""


def lines(host: Host, name: str) -> list[list[str]]:
    """The words of each whole line that the container has written so far; none before it made the file."""
    try:
        text = file_in(host, name, "/ticks").decode()
    except LabError as error:
        if "Could not find the file" in str(error):
            return []
        raise
    return words_of(text)


def words_of(text: str) -> list[list[str]]:
    """The words of each line that is whole."""
    whole, _, _ = text.rpartition("\n")
    return [line.split() for line in whole.splitlines()]


def processes(host: Host, comm: str) -> list[int]:
    """The pids of the host's processes of that name, in its containers too, as this machine sees them."""
    found = []
    for pid in sorted(cgroups.members(host.cgroups[0])):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() == f"{comm}\n":
                found.append(pid)
    return found


def ticks(host: Host, name: str) -> Ticks:
    """Number and time, in seconds, of each line that the container has written so far."""
    return [(int(words[0]), float(words[1])) for words in lines(host, name)]


def wait_ticks(host: Host, name: str, beyond: int, *, timeout: float = 60) -> Ticks:
    """All lines, once there is one numbered higher than that."""

    def more() -> Ticks:
        found = ticks(host, name)
        return found if found and found[-1][0] > beyond else []

    return until(more, f"line {beyond + 1} of {name} on {host.name}", timeout=timeout)


def downtime(seen: Ticks) -> float:
    """The longest time between two lines, in seconds."""
    return max((later - earlier for (_, earlier), (_, later) in pairwise(seen)), default=0.0)


def check_counter(seen: Ticks) -> None:
    """Raises AssertionError unless every number from 1 on is there once, in order."""
    assert seen, "the counter has written nothing"
    for expected, (number, _) in enumerate(seen, start=1):
        assert number == expected, f"line {expected} has the number {number}"


def check_memory(host: Host, name: str) -> int:
    """How often a memhog or shifter found all of its memory right. Raises AssertionError if it ever did not."""
    found = lines(host, name)
    wrong = [words for words in found if words[2] != "ok"]
    assert not wrong, f"{name} found its memory changed at line {wrong[0][0]}"
    return int(found[-1][3])
