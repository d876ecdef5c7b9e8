"""The held tasks must be what was frozen, before anything is committed."""

from __future__ import annotations

from collections.abc import Iterable

from phaul.errors import HaulFailed
from phaul.messages_pb2 import Expectation

MAX_TOLD = 1000
# Where engines of different versions, or hosts, mount differently without the container noticing.
MOUNTS_THAT_MAY_DIFFER = ("/sys/", "/proc/", "/dev/")


def differences(expected: Expectation, seen: Expectation) -> list[str]:
    """Sentences; none where the held tasks are what was frozen."""
    found = []
    before = {task.pid: task for task in expected.tasks}
    after = {task.pid: task for task in seen.tasks}
    for pid in sorted(before.keys() | after.keys()):
        if pid not in after:
            found.append(f"task {pid} ({before[pid].comm}) is missing")
        elif pid not in before:
            found.append(f"task {pid} ({after[pid].comm}) was not there before")
        elif before[pid] != after[pid]:
            one, two = before[pid], after[pid]
            found.append(f"task {pid} was {one.comm} with {one.threads} threads, is {two.comm} with {two.threads}")
    return found + _files(expected, seen) + _mounts(expected.mounts, seen.mounts)


def _files(expected: Expectation, seen: Expectation) -> list[str]:
    before = {(file.pid, file.fd): file for file in expected.files}
    after = {(file.pid, file.fd): file for file in seen.files}
    found = []
    for key in sorted(before.keys() | after.keys()):
        one, two = before.get(key), after.get(key)
        if one is None or two is None:
            shown = one or two
            found.append(
                f"descriptor {key[1]} of task {key[0]} ({shown.path if shown else ''}) is {'missing' if one else 'new'}"
            )
        elif one.size != two.size or one.path != two.path:
            found.append(f"{one.path} of task {key[0]} had {one.size} bytes, {two.path} has {two.size}")
    return found


def _mounts(before: Iterable[str], after: Iterable[str]) -> list[str]:
    one, two = ({m for m in mounts if not m.startswith(MOUNTS_THAT_MAY_DIFFER)} for mounts in (before, after))
    missing = [f"mount {mount} is missing" for mount in sorted(one - two)]
    return missing + [f"mount {mount} was not there before" for mount in sorted(two - one)]


def check(expected: Expectation, seen: Expectation) -> None:
    """Raises HaulFailed (verify) that lists what differs."""
    found = differences(expected, seen)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise HaulFailed(
            f"The restored container is not what was frozen: {'; '.join(found[:3])}{more}.",
            code="verify",
            detail="\n".join(found[:MAX_TOLD]),
        )
