"""The worker at the source: check, prepare, sync, freeze and dump, hand over.

    source   begun ── frozen ── committed ── done
    target   begun ──── held ── running ──── done

Everything before COMMIT can be undone and is, on any failure or signal. After COMMIT the source
does not thaw unless the target says that its copy is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from phaul import VERSION, images, interrupts, journal, log, places, post_copy, preflight, resolve
from phaul.barrier import HELD, POISED, Barrier
from phaul.connection import Connection, raise_failure
from phaul.desk import Desk
from phaul.display import Display
from phaul.errors import Cancelled, HaulFailed, InDoubt, PhaulError, Untidy
from phaul.fs_passes import Passes
from phaul.guard import Guard
from phaul.htype import Driver, Dumped, Source, Tree
from phaul.messages_pb2 import Begin, Discard, Poise, Prepare, Release, Reply, Request, Restore, StateIs, Verify
from phaul.mstats import Stats
from phaul.outcome import Outcome, facts
from phaul.pages_source import CHANNELS, Memory, Serving
from phaul.pre_compare import Compared
from phaul.pre_copy import CHANNEL, Rounds, Sender, Tracked
from phaul.prospect import Prospect
from phaul.streams import printable
from phaul.targets import Reach
from phaul.tasks import Crew
from phaul.xem_rpc import Caller

LOG = logging.getLogger("phaul.iters")

ASK_SECONDS = 60
LONG_SECONDS = 3600


class Haul:
    """One haul, run once. `name` is the haul's: date, time and a random part."""

    def __init__(
        self, driver: Driver, source: Source, reach: Reach, options: argparse.Namespace, stats: Stats, show: Display
    ) -> None:
        self.driver, self.source, self.reach, self.options, self.stats, self.show = (
            driver,
            source,
            reach,
            options,
            stats,
            show,
        )
        self.name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
        self.trees: list[Tree] = []
        self.token = b""
        self.serving: Serving | None = None
        self.rounds: Rounds | None = None
        self.passes: Passes | None = None
        self.desk: Desk | None = None
        self.barrier = Barrier(options.barrier)

    def run(self) -> Outcome:
        """Raises Blocked and the like untouched; HaulFailed, Cancelled rolled back; InDoubt, Untidy after COMMIT."""
        self._introduce()
        self.show.phase("check")
        # Before all else: what is in doubt is frozen, and nobody must be advised to thaw it.
        resolve.refuse_unsettled(self.source.name)
        self.caller = Caller(self.reach.open("control"), tell=self.stats.was_asked)
        plan = preflight.plan(self.driver, self.source, self.caller, self.options)
        for caution in plan.cautions:
            self.show.say(f"Warning: {caution.sentence}", "warning")
        resolve.refuse_unsettled(self.source.name)
        with interrupts.shielded():
            self.record = journal.begin(
                journal.SOURCE,
                haul=self.name,
                haul_type=self.driver.name,
                subject=self.source.name,
                peer=self.reach.name,
                port=self.options.port,
            )
            guard = Guard("source", self.name)
            log.to_file(self.logs / "p.haul.log")
        ended_by: BaseException | None = None
        try:
            self._move(plan)
            return self._hand_over()
        except BaseException as error:
            ended_by = error
            raise
        finally:
            with interrupts.shielded():
                self._end(guard, ended_by)

    def _end(self, guard: Guard, error: BaseException | None) -> None:
        if self.serving:
            self.serving.close()
        if self.passes:
            self.passes.close()
        # A signal on the way into the rollback, an engine that is down, say: the guard does it, or tries again.
        if self._undecided or isinstance(error, Untidy):
            guard.take_over()
        else:
            guard.dismiss()
        self._remember(error)
        self.record.close()
        self.caller.close()
        if self.desk:
            self.desk.close(error)

    def _introduce(self) -> None:
        names = {"haul": self.name, "haul_type": self.driver.name, "subject": self.source.name}
        self.show.say("", "haul", **names, target=self.reach.name, mode=self.options.mode, version=VERSION)

    def _remember(self, error: BaseException | None) -> None:
        """For `p.haul history`."""
        told = {"code": error.code, "status": error.status} if isinstance(error, PhaulError) else {}
        with contextlib.suppress(PhaulError):
            self.record.note(end={"at": time.time(), **told, **facts(self.stats)})

    def _tell(self) -> dict[str, Any]:
        """For `p.haul status`."""
        return {"state": self.record.state, **asdict(self.stats.seen())}

    @property
    def _undecided(self) -> bool:
        return self.record.state in (journal.BEGUN, journal.FROZEN)

    @property
    def logs(self) -> Path:
        return places.log_dir(self.name)

    @property
    def _where_logs_are(self) -> str:
        return f"Logs: {self.logs} on both hosts; p.haul bundle packs them."

    # Before COMMIT

    def _move(self, plan: preflight.Plan) -> None:
        try:
            self.work = Path(self.options.img_path) / self.name if self.options.img_path else places.WORK / self.name
            if not self.options.keep_images:
                self.record.push("work", path=str(self.work))
            self.work = places.private_dir(self.work)
            with contextlib.suppress(OSError):  # no place for a socket, no answers: a haul does not need them
                self.desk = Desk(self.work, self._tell)
            self.record.note(work=str(self.work))
            self._prepare(plan)
            self.record.note(token=self.token.hex(), patience=self.options.postcopy_timeout, codec=self.stats.codec)
            self.passes = passes = Passes(self.trees, self._channel, self.source.written, self.stats)
            if plan.capabilities.file_system:
                self.show.phase("sync")
                self.stats.aim(plan.files or None)
                passes.sync()
            self._send_history(plan)
            if self.prospect.rounds:
                self._pre_copy(plan)
                self._send_history(plan)
            self._freeze_and_restore(plan, passes)
            self.barrier.reach(HELD)
            self.source.stands_still()
            with interrupts.shielded():
                self.record.advance(journal.COMMITTED)
                interrupts.too_late()
                if self.desk:
                    self.desk.committed()
        except BaseException as error:
            self._roll_back(error)

    def _roll_back(self, error: BaseException) -> None:
        """Thaw first, tell the target second; then say what happened."""
        with interrupts.shielded():
            self.show.phase("undo")
            LOG.info("rolling back: %r", error, exc_info=True)
            failures = []
            try:
                resolve.undo(self.record)
            except PhaulError as undo_error:
                failures.append(undo_error.sentence)
            failures += self._call_off()
            interrupts.forget()
        if not isinstance(error, PhaulError | Exception):
            raise error
        raise self._told(error, failures) from (None if isinstance(error, PhaulError) else error)

    def _call_off(self) -> list[str]:
        """Tell the target that the haul is off: on the connection that there is, or on a new one."""
        try:
            self.caller.call(Request(discard=Discard()), timeout=ASK_SECONDS)
        except PhaulError as error:
            if error.code == "undo":
                return [error.sentence]
            resolve.tell_discard(self.record)
        return []

    def _told(self, error: Exception, failures: list[str]) -> Exception:
        if not isinstance(error, PhaulError):
            return error
        runs_on = f"{self.source.name} runs on here." if not failures else " ".join(failures)
        if self._undecided:
            runs_on = f"{runs_on} {resolve.again(self.record)}"
        sentence = f"{error.sentence.rstrip('.')}. {runs_on}"
        detail = "\n".join(part for part in (error.detail, self._where_logs_are) if part)
        kind = Cancelled if isinstance(error, Cancelled) else HaulFailed
        return kind(sentence, code=error.code, detail=detail)

    def _prepare(self, plan: preflight.Plan) -> None:
        self.show.phase("prepare")
        begin = Begin(haul=self.name, haul_type=self.driver.name, subject=self.source.name, wanted=plan.wanted)
        self.token = self.caller.call(Request(begin=begin), timeout=ASK_SECONDS).begun.token
        self.prospect = Prospect(plan, self.options, self.stats, self.show)
        self.prospect.choose(self.reach, self.source)
        image = self.source.image(list(plan.lacks)) if plan.capabilities.image else None
        if image is not None:
            self._send("image", "image", image)
        prepare = Prepare(lazy=plan.capabilities.post_copy)
        prepared = self.caller.call(Request(prepare=prepare), timeout=LONG_SECONDS).prepared
        self.trees = self.source.trees()
        if len(prepared.trees) != len(self.trees):
            raise HaulFailed("The target prepared other directories than the source has.", code="trees")

    def _channel(self, name: str) -> Connection:
        return self.reach.open("data", token=self.token, channel=name, codec=self.stats.codec)

    def _send(self, kind: str, name: str, chunks: Iterator[bytes]) -> None:
        channel = self._channel(name)
        with contextlib.closing(channel.link):
            channel.link.send_chunks(chunks, on_bytes=partial(self.stats.add, kind))
            _confirm(channel)

    def _send_history(self, plan: preflight.Plan) -> None:
        if plan.capabilities.history:
            for name, chunks in self.source.history():
                self._send("log", f"history:{name}", chunks)

    def _pre_copy(self, plan: preflight.Plan) -> None:
        self.show.phase("pre-copy")

        def tasks() -> dict[int, int]:
            return self.source.tasks(self.record.head)

        with self.source.brief_stops(self.record) as stopped:
            self.sender = Sender(self._channel(CHANNEL), partial(self.stats.add, "memory"))
            tracked = plan.capabilities.pre_dump
            self.rounds = Tracked(self.sender, tasks, stopped) if tracked else Compared(self.sender, tasks)
            self.rounds.run(self.prospect.in_round)

    def _freeze_and_restore(self, plan: preflight.Plan, passes: Passes) -> None:
        """The downtime begins here; what can be done before it is."""
        memory, lazy = self._channel("images"), plan.capabilities.post_copy
        recent = self._channel("recent") if plan.capabilities.history else None
        pages = {name: self._channel(name) for name in CHANNELS} if lazy else {}
        pictures = places.private_dir(self.work / "images")
        with self.source.poised(self.record, pictures, self.logs, lazy=lazy), Crew() as crew:
            poised = passes.poise(crew) if plan.capabilities.file_system else []
            self.caller.call(Request(poise=Poise()), timeout=LONG_SECONDS)
            self.barrier.reach(POISED)
            self.show.phase("freeze")
            self.stats.frozen = time.monotonic()
            self.source.freeze(self.record)
            self.record.advance(journal.FROZEN)
            LOG.debug("frozen")
            if self.rounds:
                crew.add(self._end_pre_copy, self.rounds)
            dump = crew.add(self._dump, pictures, memory, recent, lazy=lazy)
            passes.go(crew, poised)
            crew.join()
        dumped: Dumped = dump.result()
        LOG.debug("files passed")
        if lazy:
            self.serving = self._served(pages)
        self._restore(dumped)

    def _restore(self, dumped: Dumped) -> None:
        """And wait for the memory that is to be there before the release."""
        self.show.phase("restore")
        serving, until = self.serving, self._memory_until() if self.serving else 0
        # Others of a group may take their time until this one is released.
        soon = not self.options.barrier
        restore = Restore(options=json.dumps(dumped.options).encode(), release_follows=soon and not until)
        with post_copy.unless_unserved(serving):
            self.caller.call(Request(restore=restore), timeout=LONG_SECONDS)
            self.caller.call(Request(verify=Verify(expectation=dumped.expectation)), timeout=ASK_SECONDS)
        if serving and until:
            self.show.phase("memory")
            tell = self.stats.still_missing
            post_copy.await_memory(self.caller, self.name, serving, until=until, tell=tell, release_follows=soon)

    def _served(self, pages: dict[str, Connection]) -> Serving:
        memory, on_bytes = Memory(self.source.tasks(self.record.head)), partial(self.stats.add, "memory")
        serving = Serving(memory, self._channel, on_bytes=on_bytes, on_failure=self.caller.close)
        serving.start(pages)
        if self._memory_until():
            serving.push()
        return serving

    def _dump(self, pictures: Path, channel: Connection, recent: Connection | None, *, lazy: bool) -> Dumped:
        dumped = self.source.dump(pictures, lazy=lazy)
        with contextlib.closing(channel.link):
            if recent:
                # Now: the engine has had the time of the dump to write down what it was told before the freeze.
                recent.link.send_chunks(iter([self.source.recent()]), on_bytes=partial(self.stats.add, "log"))
            images.send(pictures, channel, on_bytes=partial(self.stats.add, "memory"))
            _confirm(channel)
        if recent:
            with contextlib.closing(recent.link):
                _confirm(recent)
        LOG.debug("images sent")
        return dumped

    def _end_pre_copy(self, rounds: Rounds) -> None:
        rounds.settle()
        self.sender.end()

    def _memory_until(self) -> float:
        """When to release at the latest, by the monotonic clock, though memory is missing; 0: at once."""
        if self.options.mode == "postcopy":
            return 0
        if self.options.max_downtime is None:
            return self.stats.frozen + LONG_SECONDS
        return self.stats.frozen + float(self.options.max_downtime) / 1000

    # After COMMIT

    def _hand_over(self) -> Outcome:
        """Nothing interrupts this: the target's copy is the one that lives from now on."""
        self.show.phase("release")
        seen = self._release()
        if seen.state == journal.UNDONE:
            self._taken_back()
        if seen.state == journal.LOST:
            raise post_copy.lost(self.record)
        if seen.state not in (journal.RUNNING, journal.DONE):
            raise resolve.in_doubt(self.record, f"it says {printable(seen.state) or 'that it has no record of it'}")
        self.stats.released = time.monotonic()
        if self.serving and (seen.missing or seen.lost):
            self._serve_rest(self.serving, seen.missing)
        self.show.phase("finish")
        try:
            notes = resolve.finish(self.record)
        except PhaulError as error:
            sentence = f"{self.source.name} runs on {self.reach.name}, but here: {error.sentence.rstrip('.')}."
            raise Untidy(f"{sentence} {resolve.again(self.record)}", code=error.code) from None
        if interrupts.noted():
            notes.append("The signal came after the container was committed: it was too late to cancel.")
        return Outcome(printable(seen.subject), tuple(notes))

    def _serve_rest(self, serving: Serving, missing: int) -> None:
        """Post-copy: it runs there, and asks for what is missing."""
        self.show.phase("post-copy")
        self.stats.still_missing(missing)
        patience = float(self.options.postcopy_timeout)
        post_copy.follow(
            self.reach, self.record, serving, caller=self.caller, patience=patience, tell=self.stats.still_missing
        )
        self.stats.independent = time.monotonic()

    def _release(self) -> StateIs:
        try:
            return self.caller.call(Request(release=Release()), timeout=ASK_SECONDS).state_is
        except InDoubt:
            raise
        except PhaulError as error:
            LOG.warning("the release was not answered: %s", error.sentence)
            if error.code == "not-held":
                return StateIs(state=journal.UNDONE)
            return resolve.release(self.record)

    def _taken_back(self) -> None:
        resolve.undo(self.record)
        raise HaulFailed(
            f"The target could not release the container. {self.source.name} runs on here.",
            code="not-held",
            detail=self._where_logs_are,
        )


def _confirm(channel: Connection) -> None:
    """The target has all of it. Raises what it says otherwise."""
    reply = channel.recv(Reply, timeout=LONG_SECONDS)
    if reply.HasField("failure"):
        raise_failure(reply.failure)
