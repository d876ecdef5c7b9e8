"""p.haul-service: what a target does with the connections that reach it."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Iterator

from phaul import documents, forecast, host_facts, htype, journal, log_bundle, pages_target, places, session
from phaul.connection import Connection, failure_of, message_of, welcome
from phaul.errors import HaulFailed, LinkLost, PhaulError, ProtocolError, Refused
from phaul.link import Link
from phaul.messages_pb2 import Begin, Check, Checked, Complete, Done, Fact, Hello, LogsAre, Reply, Request, StateIs
from phaul.policy import EVERYTHING, STRICT, Policy
from phaul.session import Session
from phaul.streams import printable
from phaul.xem_rpc import serve

LOG = logging.getLogger("phaul.service")

HAUL_NAME = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")
# After the control connection of a held haul is lost, its source may come again to release it.
GRACE_SECONDS = 10.0
PULSE_SECONDS = 1.0
MAX_SESSIONS, MAX_OF_PEER = 64, 32
MAX_PATIENCE_SECONDS = 30.0


class Service:
    """Sessions by haul; one control connection speaks of one haul at a time.

    `policy` is for paired hosts; who is root here already may bring anything.
    """

    def __init__(self, policy: Policy = STRICT) -> None:
        self._policy = policy
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._last = time.monotonic()
        self._untidy = False

    def handle(self, link: Link) -> None:
        """One authenticated connection, to its end; called in a thread of its own."""
        connection, hello = welcome(link)
        if hello.purpose == "control":
            self._control(connection)
        elif hello.purpose == "data":
            self._data(connection, hello)
        else:
            raise ProtocolError(f"The peer {link.peer} wants {hello.purpose[:40]!r}, which is not spoken here.")

    def idle_since(self) -> float | None:
        """The monotonic moment since when nothing is carried; None while a haul is under way."""
        with self._lock:
            return None if self._sessions else self._last

    def _control(self, connection: Connection) -> None:
        link = connection.link
        talk = _Talk(self, link, EVERYTHING if link.of_root else self._policy)
        try:
            serve(connection, talk.handle, after=talk.after)
        finally:
            talk.ended()

    def _data(self, connection: Connection, hello: Hello) -> None:
        if hello.channel == forecast.CHANNEL:
            self._speed(connection)
            return
        with self._lock:
            owner = next((s for s in self._sessions.values() if s.token == hello.token), None)
        if owner is None and self._pages(connection, hello):
            return
        if owner is None:
            connection.send(Reply(failure=failure_of(Refused("This channel belongs to no haul.", code="no-haul"))))
            return
        try:
            owner.carry(connection, hello.channel)
        except LinkLost:
            LOG.info("haul %s: channel %s ended early", owner.haul, hello.channel)
        except PhaulError as error:
            LOG.error("haul %s: channel %s: %s", owner.haul, hello.channel, error.sentence)
            with contextlib.suppress(LinkLost):
                connection.send(Reply(failure=failure_of(error)))
        except OSError as error:
            failure = HaulFailed(f"The target failed on channel {hello.channel}: {error.strerror}.", code="target-os")
            with contextlib.suppress(LinkLost):
                connection.send(Reply(failure=failure_of(failure)))

    @staticmethod
    def _speed(connection: Connection) -> None:
        """Belongs to no haul: a check measures the link too."""
        with contextlib.suppress(LinkLost):
            connection.send(Reply(done=Done(note=forecast.pace_of(connection))))

    @staticmethod
    def _pages(connection: Connection, hello: Hello) -> bool:
        """A released haul's pager lives on without a session."""
        haul = pages_target.of_token(hello.token) if hello.channel in pages_target.KINDS else ""
        if haul:
            with contextlib.suppress(LinkLost, Refused):
                pages_target.carry(haul, connection.link, hello.channel)
        return bool(haul)

    def begin(self, request: Begin, peer: str, policy: Policy) -> Session:
        if not HAUL_NAME.fullmatch(request.haul):
            raise ProtocolError("The peer gave a haul name that is none.")
        with _documented():
            wanted = session.admit(request, policy)
        with self._lock:
            if len(self._sessions) >= MAX_SESSIONS:
                raise Refused(f"The target carries {MAX_SESSIONS} hauls already: try again later.", code="too-many")
            if sum(one.journal.head["peer"] == peer for one in self._sessions.values()) >= MAX_OF_PEER:
                raise Refused(f"The target carries {MAX_OF_PEER} hauls of yours already.", code="too-many")
            try:
                begun = Session(request, wanted, peer, policy)
            except FileExistsError:
                raise ProtocolError("The peer gave the name of another haul.") from None
            self._sessions[request.haul] = begun
        return begun

    def find(self, haul: str) -> Session | None:
        with self._lock:
            return self._sessions.get(haul)

    def sit(self, owner: Session, delta: int) -> None:
        """A control connection speaks of the haul from now on (+1), or has left it (-1)."""
        with self._changed:
            owner.seats += delta
            self._changed.notify_all()

    def left(self, owner: Session) -> None:
        """The last connection of a haul is gone: settle it, or take it back after the grace."""
        if owner.journal.state == journal.HELD:
            with self._changed:
                self._changed.wait_for(lambda: owner.seats > 0, GRACE_SECONDS)
                if owner.seats > 0:
                    return
        self._end(owner)

    def _end(self, owner: Session) -> None:
        try:
            owner.roll_back()
            owner.settle()
        except PhaulError as error:
            LOG.error("haul %s: %s", owner.haul, error.sentence)
            self._untidy = True
        # What still waits for memory is settled when that is there.
        self._untidy = self._untidy or not owner.journal.settled
        self.drop(owner)

    def tidy(self) -> None:
        """Try again what could not be undone or settled (the engine was down, say)."""
        if self._untidy:
            self._untidy = not recover_all()

    def drop(self, owner: Session) -> None:
        with self._lock:
            self._last = time.monotonic()
            if self._sessions.pop(owner.haul, None):
                owner.close()

    def close(self) -> None:
        """Every haul under way is taken back, or settled where it was released."""
        with self._lock:
            owners = list(self._sessions.values())
        for owner in owners:
            self._end(owner)


class _Talk:
    """The requests of one control connection."""

    def __init__(self, service: Service, link: Link, policy: Policy) -> None:
        self.service = service
        self.link, self.peer = link, link.peer
        self.policy = policy
        self.session: Session | None = None

    def handle(self, request: Request) -> Reply:
        what = request.WhichOneof("what")
        LOG.debug("%s asks %s", self.peer, what)
        if what == "ping":
            return Reply(done=Done())
        if what == "check":
            return _check(request.check, self.policy)
        if what == "logs":
            return self._logs(request.logs.haul)
        if what == "begin":
            if self.session:
                raise ProtocolError("The peer begins a haul on a connection that speaks of another.")
            self._take(self.service.begin(request.begin, self.peer, self.policy))
            return self._own().begun()
        if what == "state":
            return self._state(request.state.haul)
        if what == "complete":
            return self._complete(request.complete)
        if what == "discard":
            return self._discard(request.discard.haul)
        return self._of_session(what, request)

    def _discard(self, haul: str) -> Reply:
        """The named haul, or that which this connection speaks of. Not under its lock: a restore may have that."""
        if haul and self.session is None:
            found = self._found(haul)
            if found is None:
                return _state_on_disk(haul, self.peer)
            self._take(found)
        return self._own().discard()

    def _of_session(self, what: str | None, request: Request) -> Reply:
        owner = self._own()
        with owner.lock:
            if what == "prepare":
                return owner.prepare(request.prepare)
            if what == "poise":
                return owner.poise()
            if what == "restore":
                with self._watched(owner):
                    return owner.restore(request.restore)
            if what == "verify":
                return owner.verify(request.verify)
            if what == "release":
                return owner.release()
        raise ProtocolError(f"The peer asks {what}, which is not spoken here.")

    @contextlib.contextmanager
    def _watched(self, owner: Session) -> Iterator[None]:
        """Meanwhile the haul is called off if the peer goes: a restore may wait for memory that only it has."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(PULSE_SECONDS):
                if self.link.is_dead():
                    owner.call_off()
                    return

        thread = threading.Thread(target=look, name=f"pulse-{owner.haul}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def after(self, request: Request) -> None:
        """What can wait until the answer is on its way."""
        if request.WhichOneof("what") in ("release", "complete") and self.session:
            try:
                self.session.settle()
            except PhaulError as error:
                LOG.error("haul %s runs, but is not settled: %s", self.session.haul, error.sentence)

    def _own(self) -> Session:
        if self.session is None:
            raise ProtocolError("The peer asks about a haul before it named one.")
        return self.session

    def _take(self, owner: Session) -> None:
        self.session = owner
        self.service.sit(owner, +1)

    def _found(self, haul: str) -> Session | None:
        """The peer's haul of that name, where this service carries it."""
        if not HAUL_NAME.fullmatch(haul):
            raise ProtocolError("The peer gave a haul name that is none.")
        found = self.service.find(haul)
        return found if found and found.journal.head["peer"] == self.peer else None

    def _state(self, haul: str, *, release_follows: bool = False) -> Reply:
        if found := self._found(haul):
            if self.session is None:
                self._take(found)
            with found.lock:
                return found.state(release_follows=release_follows)
        return _state_on_disk(haul, self.peer)

    def _logs(self, haul: str) -> Reply:
        """For its own peer alone."""
        known = HAUL_NAME.fullmatch(haul) and _is_of(haul, self.peer)
        return Reply(logs=LogsAre(packed=log_bundle.packed(places.LOGS / haul) if known else b""))

    def _complete(self, request: Complete) -> Reply:
        """Not under the haul's lock: whatever else becomes of the haul must not wait for this."""
        if HAUL_NAME.fullmatch(request.haul) and _is_of(request.haul, self.peer):
            with contextlib.suppress(HaulFailed):
                pages_target.missing(request.haul, patience=min(request.patience_ms / 1000, MAX_PATIENCE_SECONDS))
        return self._state(request.haul, release_follows=request.release_follows)

    def ended(self) -> None:
        if self.session:
            self.service.sit(self.session, -1)
            if self.session.seats == 0:
                self.service.left(self.session)


def _is_of(haul: str, peer: str) -> bool:
    path = journal.find(journal.TARGET, haul)
    return path.exists() and journal.read(path).head.get("peer") == peer


def _state_on_disk(haul: str, peer: str) -> Reply:
    """A haul of an earlier service, for its own peer alone: settled now, if it was left open."""
    path = journal.find(journal.TARGET, haul)
    if not _is_of(haul, peer):
        return Reply(state_is=StateIs())
    record = journal.take(path, wait=True)
    try:
        session.recover(record)
        return Reply(state_is=session.state_of(record))
    finally:
        record.close()


@contextlib.contextmanager
def _documented() -> Iterator[None]:
    """What reads a document of the source's, which may be anything. Raises ProtocolError where it is none."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"The source sent a document that is none: {error!r}.") from None


def _check(request: Check, policy: Policy) -> Reply:
    with _documented():
        driver = htype.load(request.haul_type)
        answer = driver.target.check(documents.read(request.wanted, driver.wanted), policy)
    checked = Checked(
        findings=map(message_of, answer.findings),
        facts=host_facts.gather(),
        lacks=answer.lacks,
        shown=[Fact(name=name, value=printable(value)) for name, value in answer.facts.items()],
    )
    return Reply(checked=checked)


def recover_all() -> bool:
    """Settle what earlier services left open, except what another process carries out; whether all went well."""
    well = True
    for seen in journal.unsettled(journal.TARGET):
        try:
            record = journal.take(seen.path)
        except (journal.Busy, FileNotFoundError):
            continue
        except PhaulError as error:
            LOG.error("%s", error.sentence)
            well = well and isinstance(error, journal.Damaged)  # which trying again would not mend
            continue
        try:
            session.recover(record)
            LOG.warning("haul %s, left open by an earlier service, is %s now", record.haul, record.state)
            well = well and record.settled
        except PhaulError as error:
            LOG.error("haul %s cannot be settled now: %s", record.haul, error.sentence)
            well = False
        finally:
            record.close()
    return well
