"""One haul at the target: its driver, journal and work directory, and the requests that carry it on."""

from __future__ import annotations

import contextlib
import logging
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from phaul import (
    documents,
    fs_haul,
    htype,
    images,
    journal,
    log,
    pages_target,
    places,
    procfs,
    tasks_seen,
    verify,
)
from phaul.connection import Connection
from phaul.errors import Blocked, HaulFailed, PhaulError, ProtocolError, Refused
from phaul.messages_pb2 import Begin, Begun, Done, Held, Prepare, Prepared, Reply, Restore, StateIs, Verify
from phaul.policy import Policy
from phaul.streams import printable

LOG = logging.getLogger("phaul.session")
MAX_SUBJECT = 1000

# What is asked for once, one after the other, and when which channels may be opened.
STEPS = ("begin", "prepare", "poise", "restore")
MOMENTS = {"image": ("begin",), "history": ("prepare",), "recent": ("prepare", "poise")}


class Session:
    """Requests come one at a time (`lock`); bulk channels run beside them. What begins one was admitted."""

    def __init__(self, begin: Begin, wanted: documents.Json, peer: str, policy: Policy) -> None:
        self.lock = threading.RLock()
        self.token = secrets.token_bytes(16)
        self.driver = htype.load(begin.haul_type)
        self.work = places.WORK / begin.haul
        self.logs = places.log_dir(begin.haul)
        self.log_handler = log.to_file(self.logs / "p.haul-service.log")
        try:
            self.journal = journal.begin(
                journal.TARGET,
                haul=begin.haul,
                haul_type=begin.haul_type,
                subject=printable(begin.subject),
                peer=peer,
            )
        except BaseException:
            log.drop(self.log_handler)
            raise
        self.trees: list[Path] = []
        self.channels: set[Connection] = set()
        self.seats = 0
        self.step, self.broken = "begin", False
        try:
            self.journal.push("work", path=str(self.work))
            places.private_dir(self.work)
            self.target = self.driver.target(wanted, self.journal, policy)
        except BaseException:
            undo_all(self.journal, self.driver)
            self.close()
            raise

    @property
    def haul(self) -> str:
        return self.journal.haul

    @property
    def _images(self) -> Path:
        return self.work / "images"

    # Requests

    def begun(self) -> Reply:
        return Reply(begun=Begun(token=self.token))

    def prepare(self, request: Prepare) -> Reply:
        self._expect(journal.BEGUN)
        with self._step("prepare"):
            if request.lazy:
                self.journal.push("pages", haul=self.haul)
                work = self.work / htype.RESTORE_WORK
                pages_target.start(self.haul, token=self.token, images=self._images, work=work)
            self.trees = self.target.prepare()
        return Reply(prepared=Prepared(trees=[procfs.worded(str(tree)) for tree in self.trees]))

    def poise(self) -> Reply:
        self._expect(journal.BEGUN)
        with self._step("poise"):
            self.target.poise(self._images, lazy=waits_for_pages(self.journal))
        return Reply(done=Done())

    def restore(self, request: Restore) -> Reply:
        self._expect(journal.BEGUN)
        options = documents.read(request.options, self.driver.options)
        with self._step("restore"):
            subject = self.target.restore(self._images, options, self.logs)
            if request.release_follows:
                self.target.commence()
            self.journal.advance(journal.HELD)
        return Reply(held=Held(subject=subject))

    def verify(self, request: Verify) -> Reply:
        self._expect(journal.HELD)
        if waits_for_pages(self.journal):
            pages_target.await_startable(self.haul)
        mounts = bool(request.expectation.mounts)
        verify.check(request.expectation, tasks_seen.expectation(self.target.pids(), mounts=mounts))
        self._ready()
        return Reply(done=Done())

    def release(self) -> Reply:
        """The word after which the copy here is the one that lives. What cannot be released is discarded at once."""
        if self.journal.state == journal.HELD:
            try:
                self.target.commence()
                self._ready()
                self.journal.advance(journal.RUNNING)
            except HaulFailed as error:
                self._give_up()
                raise HaulFailed(error.sentence, code="not-held", detail=error.detail) from None
        self._expect(journal.RUNNING, journal.DONE)
        if self.journal.state == journal.RUNNING:
            self._let_run()
        return self.state()

    def _let_run(self) -> None:
        """What cannot be (its engine died this very moment) has not run at all, and can still be taken back."""
        let_run(self.journal, self.driver)
        if self.journal.head.get("taking_back"):
            raise HaulFailed("Nothing held the restored tasks any more when they were released.", code="not-held")

    def _ready(self) -> None:
        """Raises HaulFailed where a release would not do."""
        self.target.ready()
        missing_memory(self.journal)

    def _give_up(self) -> None:
        """The tasks end now, or HaulFailed is raised; the rest can wait where it must (for the engine, say)."""
        try:
            self.roll_back()
        except HaulFailed as error:
            if self._holds():
                raise
            LOG.error("haul %s: %s", self.haul, error.sentence)

    def _holds(self) -> bool:
        """Whether any restored task lives."""
        with contextlib.suppress(PhaulError):
            return bool(tasks_seen.expectation(self.target.pids(), mounts=False).tasks)
        return False

    def call_off(self) -> None:
        """The source is gone: a restore under way does not get its memory, and fails. It has the lock meanwhile."""
        LOG.warning("haul %s: its source is gone in the middle of the restore", self.haul)
        stop_pager(self.journal)

    def discard(self) -> Reply:
        self.roll_back()
        return self.state()

    def state(self, *, release_follows: bool = False) -> Reply:
        """`release_follows`, unless memory is missing: see Target.commence."""
        seen = state_of(self.journal)
        if release_follows and seen.state == journal.HELD and not (seen.missing or seen.lost):
            self.target.commence()
        return Reply(state_is=seen)

    # The end

    def settle(self) -> None:
        """After the release, when all memory is there: restart policy and the like, then the haul's traces go."""
        with self.lock:
            if self.journal.state == journal.RUNNING:
                settle_released(self.journal, self.driver)

    def roll_back(self) -> None:
        """Undo everything; does nothing once released. Raises HaulFailed (undo) that lists what could not be undone."""
        if self.journal.state == journal.BEGUN:
            # A restore that waits for memory which will not come would keep the lock.
            stop_pager(self.journal)
        with self.lock:
            if self.journal.state not in (journal.BEGUN, journal.HELD):
                return
            for channel in list(self.channels):
                channel.link.close()
            undo_all(self.journal, self.driver)

    def close(self) -> None:
        self.journal.close()
        log.drop(self.log_handler)

    # Bulk channels

    def carry(self, channel: Connection, name: str) -> None:
        """Serve one bulk channel to its end."""
        kind, _, number = name.partition(":")
        carriers: dict[str, Callable[[], None]] = {
            "image": lambda: self._receive_image(channel),
            "tree": lambda: fs_haul.receive(self._tree(number), channel, self.work),
            "pages": lambda: pages_target.carry(self.haul, channel.link, name),
            "history": lambda: self.target.keep_history(number, channel.link.recv_chunks()),
            "recent": lambda: self.target.keep_recent(channel.link.recv_chunks()),
            "images": lambda: images.receive(places.private_dir(self._images), channel),
        }
        if kind not in carriers:
            raise ProtocolError(f"The peer asked for the unknown channel {name[:40]!r}.")
        if self.step not in MOMENTS.get(kind, STEPS):
            raise ProtocolError(f"The peer opened the channel {kind} when it is not the time for it ({self.step}).")
        self.channels.add(channel)
        try:
            carriers[kind]()
            if kind not in ("tree", "pages"):
                channel.send(Reply(done=Done()))
        finally:
            self.channels.discard(channel)

    def _receive_image(self, channel: Connection) -> None:
        self.target.receive_image(channel.link.recv_chunks())

    def _tree(self, number: str) -> Path:
        if not (number.isdecimal() and len(number) < 6) or int(number) >= len(self.trees):
            raise ProtocolError("The peer asked for a tree that this haul has not.")
        return self.trees[int(number)]

    @contextlib.contextmanager
    def _step(self, step: str) -> Iterator[None]:
        """What fails is not done again, and nothing comes after it: undone, that would take what others have."""
        if self.broken or STEPS.index(step) != STEPS.index(self.step) + 1:
            raise ProtocolError(f"The peer asks to {step} what is at {self.step}.")
        self.step, self.broken = step, True
        yield
        self.broken = False

    def _expect(self, *states: str) -> None:
        if self.journal.state not in states:
            raise Refused(f"Haul {self.haul} is {self.journal.state} at the target.", code="wrong-state")


def admit(request: Begin, policy: Policy) -> documents.Json:
    """What is wanted, as a document. Raises Blocked (not-allowed), ProtocolError for what no source sends."""
    driver = htype.load(request.haul_type)
    if len(request.subject) > MAX_SUBJECT:
        raise ProtocolError(f"The peer hauls something whose name has {len(request.subject)} characters.")
    wanted = documents.read(request.wanted, driver.wanted)
    if found := driver.target.admit(wanted, policy):
        raise Blocked(tuple(found))
    return wanted


def state_of(record: journal.Journal) -> StateIs:
    """What there is to say of a target's haul."""
    state = record.state
    if state == journal.RUNNING and record.head.get("taking_back"):
        state = journal.UNDONE if record.head.get("taken_back") else journal.HELD
    seen = StateIs(state=state, subject=str(record.head.get("container", "")))
    seen.lost = journal.LOST in (record.state, record.head.get("ends_as"))
    if state in (journal.HELD, journal.RUNNING) and not record.head.get("ends_as"):
        try:
            seen.missing = missing_memory(record)
        except HaulFailed:
            seen.lost = True
    return seen


def missing_memory(record: journal.Journal) -> int:
    """Bytes that the restored tasks still wait for. Raises HaulFailed (pages) where they will not come any more."""
    return pages_target.missing(record.haul) if waits_for_pages(record) else 0


def waits_for_pages(record: journal.Journal) -> bool:
    return any(step.kind == "pages" for step in record.steps)


def stop_pager(record: journal.Journal) -> None:
    """Before anything else is undone: it must not wait for memory which will not come."""
    if waits_for_pages(record):
        pages_target.stop(record.haul)


def _wipe_work(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)


def undo_all(record: journal.Journal, driver: htype.Driver) -> None:
    """Roll a target's journal back to nothing, and settle it. Raises HaulFailed (undo)."""

    def undo(kind: str, args: dict[str, object]) -> None:
        if kind == "work":
            _wipe_work(str(args["path"]))
        elif kind == "pages":
            pages_target.stop(str(args["haul"]))
        else:
            driver.target.undo(kind, args)

    stop_pager(record)
    failed = record.roll_back(undo)
    if failed:
        raise HaulFailed(f"The target could not undo everything: {'; '.join(failed)}.", code="undo")
    record.advance(journal.UNDONE)


def let_run(record: journal.Journal, driver: htype.Driver) -> None:
    """Carry out a release that is written, or take back what nobody holds and has not run. Raises PhaulError."""
    if record.head.get("ends_as"):
        return  # it has been carried out, and what would tell so may be gone
    try:
        if not record.head.get("taking_back"):
            driver.target.release(record.head)
            return
    except HaulFailed as error:
        if error.code != "not-held":
            raise
        LOG.error("haul %s: %s", record.haul, error.sentence)
    take_back(record, driver)


def take_back(record: journal.Journal, driver: htype.Driver) -> None:
    """A release that was written and could not be carried out: the tasks end without having run.

    Raises PhaulError where they do not; what only an engine can undo may be left for later.
    """
    record.note(taking_back=True)
    driver.target.kill(record.head)
    record.note(taken_back=True)
    try:
        undo_all(record, driver)
    except HaulFailed as error:
        LOG.error("haul %s: %s", record.haul, error.sentence)


def settle_released(record: journal.Journal, driver: htype.Driver) -> None:
    """Finish a target's journal whose release was given, once no memory is missing; nothing of it is undone then."""
    if record.head.get("taken_back"):
        undo_all(record, driver)
        return
    end = _end_of(record)
    if not end:
        return
    if end == journal.LOST:
        driver.target.kill(record.head)
        LOG.error("haul %s: memory of its tasks is lost: they were ended", record.haul)
    else:
        driver.target.settle(record.head)
    for step in record.steps:
        if step.kind == "work":
            _wipe_work(str(step.args["path"]))
        elif step.kind == "pages":
            pages_target.leave(record.haul)
        record.forget(step.number)
    record.advance(end)


def _end_of(record: journal.Journal) -> str:
    """DONE where all memory is there, LOST where it will not come; "" as long as it may.

    On record before anything is settled: the pager is gone then, and cannot be asked again.
    """
    if not record.head.get("ends_as"):
        seen = state_of(record)
        if seen.missing and not seen.lost:
            return ""
        record.note(ends_as=journal.LOST if seen.lost else journal.DONE)
    return str(record.head["ends_as"])


def recover(record: journal.Journal) -> None:
    """What a process that died left to do at the target. Raises PhaulError where it cannot be done now."""
    driver = htype.load(str(record.head["type"]))
    if record.state in (journal.BEGUN, journal.HELD):
        undo_all(record, driver)
    elif record.state == journal.RUNNING:
        try:
            let_run(record, driver)
        except HaulFailed as error:
            LOG.warning("Haul %s was released, but %s", record.haul, error.sentence)
        if not record.settled:
            settle_released(record, driver)
