"""The source's part while memory is still missing at the target: serve it, however often the connection is lost."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from phaul import journal, targets
from phaul.errors import HaulFailed, InDoubt, NotTrusted, PhaulError, Unreachable
from phaul.messages_pb2 import Complete, Request, StateIs
from phaul.pages_source import Serving
from phaul.targets import Reach
from phaul.xem_rpc import Caller

LOG = logging.getLogger("phaul.postcopy")
SLICE_MS = 2000
ASK_SECONDS = 60


def await_memory(
    caller: Caller, haul: str, serving: Serving, *, until: float, tell: Callable[[int], None], release_follows: bool
) -> StateIs:
    """Before COMMIT: until nothing is missing, or the monotonic clock shows `until`; `tell` hears how much is.

    Raises what went wrong.
    """
    slice_ms = 0  # at first only how much it is
    while True:
        left_ms = max(0, int((until - time.monotonic()) * 1000))
        seen = _ask(caller, haul, min(slice_ms, left_ms), release_follows=release_follows)
        if seen.lost:
            raise HaulFailed("The target's pager died before all memory had come.", code="pages")
        if serving.failure:
            raise serving.failure
        if not seen.missing or not left_ms:
            return seen
        tell(seen.missing)
        slice_ms = SLICE_MS


@contextlib.contextmanager
def unless_unserved(serving: Serving | None) -> Iterator[None]:
    """Asks of the target what it may have to wait for memory for; raises why none is served, where the asking ends."""
    try:
        yield
    except Unreachable:
        if serving and serving.failure:
            raise serving.failure from None
        raise


def follow(
    reach: Reach,
    record: journal.Journal,
    serving: Serving,
    *,
    caller: Caller | None,
    patience: float,
    tell: Callable[[int], None],
) -> StateIs:
    """After the release: push what is missing, until nothing is; `tell` hears how many bytes are.

    Raises InDoubt (memory-left) where the target cannot be reached for `patience` seconds, or trusts this
    host no more, (memory-lost) where the tasks there were ended.
    """
    serving.push()
    heard = time.monotonic()
    while True:
        try:
            caller = caller or Caller(targets.connect_patiently(reach, deadline_s=patience))
            seen = _ask(caller, record.haul, SLICE_MS)
        except Unreachable as error:
            caller = None
            if time.monotonic() - heard > patience:
                raise _left(record, error.sentence) from None
            LOG.warning("%s Its tasks wait for memory meanwhile.", error.sentence)
            continue
        except NotTrusted as error:
            raise _left(record, error.sentence) from None
        heard = time.monotonic()
        if seen.lost:
            raise lost(record)
        if isinstance(serving.failure, NotTrusted):  # for a while
            raise _left(record, serving.failure.sentence)
        if serving.failure:
            raise _unserved(record, serving.failure)
        if not seen.missing:
            return seen
        tell(seen.missing)


def _ask(caller: Caller, haul: str, patience_ms: int, *, release_follows: bool = False) -> StateIs:
    complete = Complete(haul=haul, patience_ms=patience_ms, release_follows=release_follows)
    return caller.call(Request(complete=complete), timeout=ASK_SECONDS).state_is


def _left(record: journal.Journal, why: str) -> InDoubt:
    return InDoubt(
        f"{record.subject} runs at {record.head['peer']}, but waits there for memory that is here ({why.rstrip('.')}). "
        f"Leave this host as it is; p.haul --resolve {record.subject} goes on.",
        code="memory-left",
    )


def lost(record: journal.Journal) -> InDoubt:
    """The target's pager died, and its tasks were ended for it."""
    return InDoubt(
        f"{record.subject} was ended at {record.head['peer']}, since its pager there died before all memory had come. "
        f"The copy here is whole as it was frozen: p.haul --resolve {record.subject} --force lets it run on.",
        code="memory-lost",
    )


def _unserved(record: journal.Journal, failure: PhaulError) -> InDoubt:
    return InDoubt(
        f"Memory that {record.subject} waits for at {record.head['peer']} cannot be read here any more "
        f"({failure.sentence.rstrip('.')}): it cannot go on there, end it. The copy here has ended too.",
        code="memory-lost",
    )
