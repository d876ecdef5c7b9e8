"""Settling a haul at the source that its own p.haul could not: after a crash, or after a lost connection."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

from phaul import htype, journal, post_copy, targets
from phaul.errors import HaulFailed, InDoubt, PhaulError, Refused
from phaul.messages_pb2 import Discard, Release, Request, State, StateIs
from phaul.pages_source import Memory, Serving
from phaul.xem_rpc import Caller

LOG = logging.getLogger("phaul.resolve")
ASK_SECONDS = 60
PATIENCE_SECONDS = 30.0
AGAIN_SECONDS, PAUSE_SECONDS = 600.0, 2.0


def undo(record: journal.Journal) -> None:
    """Roll the source back and settle its journal. Raises HaulFailed (undo) that lists what could not be undone."""
    driver = htype.load(str(record.head["type"]))

    def one(kind: str, args: dict[str, Any]) -> None:
        if kind == "work":
            shutil.rmtree(args["path"], ignore_errors=True)
        else:
            driver.source.undo(kind, args)

    failed = record.roll_back(one)
    if failed:
        raise HaulFailed(f"Not everything could be undone on this host: {'; '.join(failed)}.", code="undo")
    record.advance(journal.UNDONE)


def finish(record: journal.Journal) -> list[str]:
    """The target runs: end the copy here; sentences to tell."""
    notes = htype.load(str(record.head["type"])).source.finish(record.head)
    for step in record.steps:
        if step.kind == "work":
            shutil.rmtree(step.args["path"], ignore_errors=True)
        record.forget(step.number)
    record.advance(journal.DONE)
    return notes


@contextlib.contextmanager
def calling(record: journal.Journal, *, patience: float) -> Iterator[Caller]:
    """A new connection to the haul's target. Raises what that raises, Unreachable after `patience` seconds."""
    reach = targets.reach(str(record.head["peer"]), port=int(record.head["port"]))
    with contextlib.closing(reach):
        yield Caller(targets.connect_patiently(reach, deadline_s=patience))


def release(record: journal.Journal) -> StateIs:
    """After COMMIT: what became of the haul at the target, releasing it where it is still held.

    Comes again and again while the target cannot be reached, PATIENCE_SECONDS at most; raises InDoubt then.
    """
    try:
        with calling(record, patience=PATIENCE_SECONDS) as caller:
            seen = caller.call(Request(state=State(haul=record.haul)), timeout=ASK_SECONDS).state_is
            if seen.state == journal.HELD:
                seen = caller.call(Request(release=Release()), timeout=ASK_SECONDS).state_is
    except PhaulError as error:
        if error.code == "not-held":
            return StateIs(state=journal.UNDONE)
        raise in_doubt(record, error.sentence) from None
    return seen


def in_doubt(record: journal.Journal, why: str) -> InDoubt:
    name = record.subject
    here = "It ended here" if record.power_lost else "It stays frozen here"
    return InDoubt(
        f"{name} was committed to {record.head['peer']}, and whether it runs there is not known ({why.rstrip('.')}). "
        f"{here}. When that host answers again: p.haul --resolve {name}."
    )


def settle(record: journal.Journal, *, force: bool = False) -> list[str]:
    """Bring a source's journal to its end, whatever that is; sentences to tell. Raises InDoubt, HaulFailed."""
    name = record.subject
    if record.state in (journal.BEGUN, journal.FROZEN):
        undo(record)
        tell_discard(record)
        return [f"{name} was not committed: {_whereabouts(record)}."]
    if record.state == journal.COMMITTED:
        return _settle_committed(record, force=force)
    return [f"{name} is settled already ({record.state})."]


def _settle_committed(record: journal.Journal, *, force: bool) -> list[str]:
    name, peer = record.subject, record.head["peer"]
    if force:
        undo(record)
        stands = _whereabouts(record).removeprefix("it ")
        return [f"{name} {stands}, by force: make sure that it does not run on {peer}."]
    seen = release(record)
    if seen.state == journal.LOST:
        raise post_copy.lost(record)
    if seen.state in (journal.RUNNING, journal.DONE):
        if seen.missing or seen.lost:
            serve_rest(record)
        return [f"{name} runs on {peer}.", *finish(record)]
    if seen.state == journal.UNDONE:
        undo(record)
        return [f"{name} was given up by {peer}: {_whereabouts(record)}."]
    raise in_doubt(
        record, "that host has no record of it; --force thaws it here if you are sure that it does not run there"
    )


def serve_rest(record: journal.Journal) -> None:
    """The tasks at the target wait for memory that the copy here has. Raises InDoubt (memory-left, memory-lost)."""
    reach = targets.reach(str(record.head["peer"]), port=int(record.head["port"]))
    token, codec = bytes.fromhex(str(record.head["token"])), str(record.head.get("codec", ""))
    memory = Memory(htype.load(str(record.head["type"])).source.tasks(record.head))
    serving = Serving(memory, lambda name: reach.open("data", token=token, channel=name, codec=codec))
    try:
        with serving:
            serving.start({})
            patience = float(record.head["patience"])
            post_copy.follow(reach, record, serving, caller=None, patience=patience, tell=lambda _: None)
    finally:
        reach.close()


def _whereabouts(record: journal.Journal) -> str:
    """What has become of the subject on this host, which is undone."""
    if record.power_lost:
        return "it ended here when this host was started anew, and runs again if its restart policy says so"
    return "it runs on here"


def tell_discard(record: journal.Journal, *, patience: float = 0.0) -> bool:
    """Tell the target that the haul is off; it finds out by itself too, later."""
    if record.state != journal.UNDONE:
        return False
    try:
        with calling(record, patience=patience) as caller:
            caller.call(Request(discard=Discard(haul=record.haul)), timeout=ASK_SECONDS)
    except PhaulError as error:
        LOG.info("the target could not be told that haul %s is off: %s", record.haul, error.sentence)
        return False
    return True


def of_subject(name: str) -> journal.Journal:
    """The unsettled haul of that subject, locked. Raises Refused (nothing-to-resolve, haul-busy, journal-damaged)."""
    for seen in journal.unsettled(journal.SOURCE):
        if means(seen, name):
            try:
                return journal.take(seen.path)
            except journal.Busy:
                raise Refused(f"A p.haul is moving {name} just now.", code="haul-busy") from None
    raise Refused(f"No haul of {name!r} is unsettled on this host.", code="nothing-to-resolve")


def means(record: journal.Journal, name: str) -> bool:
    container = str(record.head.get("container", ""))
    return record.subject == name or (len(name) >= 4 and container.startswith(name))


def refuse_unsettled(name: str) -> None:
    """Raises Refused (haul-busy, unsettled) where an earlier haul of the subject has not ended."""
    for seen in journal.unsettled(journal.SOURCE):
        if seen.subject == name:
            of_subject(name).close()
            raise Refused(f"An earlier haul of {name} has not been settled: p.haul --resolve {name}.", code="unsettled")


def again(record: journal.Journal) -> str:
    """What becomes of that which cannot be settled now."""
    minutes = AGAIN_SECONDS / 60
    return f"It is tried again for {minutes:.0f} minutes; after that: p.haul --resolve {record.subject}."


def after_death(haul: str) -> None:
    """The guard's work: p.haul died, or could not settle all of it. What is in doubt stays for --resolve."""
    until = time.monotonic() + AGAIN_SECONDS
    pause = threading.Event()
    while not _settled_now(haul) and time.monotonic() < until:
        pause.wait(PAUSE_SECONDS)


def _settled_now(haul: str) -> bool:
    """Whether nothing is left to do; what cannot be done now (the engine is down, say) may be another time."""
    record = journal.take(journal.find(journal.SOURCE, haul), wait=True)
    try:
        for sentence in () if record.settled else settle(record):
            LOG.warning("for p.haul, which has ended: %s", sentence)
    except PhaulError as error:
        LOG.error("for p.haul, which has ended: %s", error.sentence)
        return isinstance(error, InDoubt)
    finally:
        record.close()
    return True


def settle_all() -> list[str]:
    """Hauls of this host whose p.haul and guard are both gone (a power cut, say) and that need no target."""
    told = []
    for seen in journal.unsettled(journal.SOURCE):
        if seen.state == journal.COMMITTED:
            continue
        try:
            record = journal.take(seen.path)
        except (journal.Busy, FileNotFoundError):
            continue
        except PhaulError as error:
            LOG.error("%s", error.sentence)
            continue
        try:
            if not record.settled:
                told += settle(record)
        except PhaulError as error:
            LOG.error("haul %s: %s", record.haul, error.sentence)
        finally:
            record.close()
    return told
