"""The process that fills restored tasks' memory with pages that it asks the source for; it outlives the service.

CRIU's restore hands it a userfaultfd for each task over <work>/lazy-pages.socket (criu/uffd.c: the
task's pid inside as an int, the descriptor with one byte; at last a word that all is restored). The
service connects to <directory>/pager.sock and says with one byte what the connection is: "b" for the
bulk of the pages, "d" for what tasks wait for, both relayed to the source; "w" to hear what is
missing, as a line of JSON at once and another one when nothing is; "s" to bring pages before there
are tasks; "f" to hear, by one byte, that the tasks may run; "l" to leave the directory to it; "q" to
make it end.

They may run when each mapping has one of its pages. With none it has no anon_vma in the kernel yet,
and if the program split it (mprotect(2)) and pages came to its parts one by one, each part could get
one of its own: they would never be one mapping again (mm/vma.c), which mremap(2) wants.

If it dies before its time, tasks would read zeros where pages are missing: its keeper, a second
process that holds the descriptors too, so that they wait instead, kills them.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import selectors
import shutil
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from phaul import pages_filler, pages_store, procfs, uffd
from phaul.errors import PhaulError
from phaul.pager_keeper import Keeper
from phaul.pages_asker import Asker
from phaul.pages_filler import Space, Task
from phaul.pages_images import Lazy, lazy_pages
from phaul.pages_store import Store
from phaul.pages_wire import Wish

LOG = logging.getLogger("phaul.pager")
RESTORED = 0x52535446
NEAR = 4  # wishes
LAZY_SOCKET, PAGER_SOCKET, COMPLETE = "lazy-pages.socket", "pager.sock", "complete"
_INT = struct.Struct("=i")
_HANDSHAKE_S = 30


class Finished(Exception):
    """Nothing is missing any more, or nobody wants it."""


class Pager:
    """One thread, one loop."""

    def __init__(self, directory: Path, images: Path, work: Path) -> None:
        self._directory, self._images = directory, images
        self._selector = selectors.DefaultSelector()
        self._tasks: list[Task] = []
        self._restored = False
        self._askers: dict[str, Asker] = {}
        self._urgent: dict[tuple[int, int], Wish] = {}
        self._firsts: set[tuple[int, int]] = set()
        self._waiters: list[socket.socket] = []
        self._starters: list[socket.socket] = []
        self._faults: deque[tuple[Space, uffd.Event]] = deque()
        self._store = Store()
        self._told = self._left = False
        self.total = 0
        self.on_restored: Callable[[], None] = lambda: None
        self.on_fork: Callable[[int], None] = lambda _: None
        criu, service = listening(work / LAZY_SOCKET), listening(directory / PAGER_SOCKET)
        self._watch(criu, lambda: self._criu_comes(criu.accept()[0]))
        self._watch(service, lambda: self._service_comes(service.accept()[0]))

    def run(self) -> None:
        """Until every page is there, or it is told to leave."""
        while not (self._restored and not sum(task.missing for task in self._tasks)):
            while self._faults:
                space, fault = self._faults.popleft()
                self._heed(space, [fault])
            self._ask()
            self._tell(self.missing)
            local = self._restored and self._fill_from_store()
            for key, mask in self._selector.select(0 if local else None):
                key.data[0 if mask & selectors.EVENT_READ else 1]()
        self._tell(0)
        if self._left:
            shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def missing(self) -> int:
        """Bytes that the source still has to send."""
        asked = [wish for asker in self._askers.values() for wish in asker.asked]
        urgent = [] if "d" in self._askers else list(self._urgent.values())
        return sum(task.coming for task in self._tasks) + sum(wish.size for wish in (*asked, *urgent))

    def _fill_from_store(self) -> bool:
        """A piece of what pre-copy brought; whether there was any."""
        for task in self._tasks:
            if wish := self._store.take(task.pid):
                self._fill(wish, self._store.buffer)
                return True
        return False

    def _watch(
        self, what: socket.socket | int, read: Callable[[], None], write: Callable[[], None] | None = None
    ) -> None:
        self._selector.register(what, selectors.EVENT_READ, (read, write))

    # CRIU

    def _criu_comes(self, peer: socket.socket) -> None:
        peer.settimeout(_HANDSHAKE_S)
        self._watch(peer, lambda: self._criu_speaks(peer))

    def _criu_speaks(self, peer: socket.socket) -> None:
        data = peer.recv(_INT.size)
        if not data:
            self._selector.unregister(peer)
            peer.close()
            return
        (number,) = _INT.unpack(data)
        if number == RESTORED:
            self._all_restored()
        elif number > 0:
            _, descriptors, _, _ = socket.recv_fds(peer, 1, 1)
            lazy = lazy_pages(self._images, number)
            self._add(pages_filler.new_task(number, descriptors[0], lazy.spans), lazy)

    def _add(self, task: Task, lazy: Lazy) -> None:
        stored = self._store.spans(task.pid)
        for start, end, _ in stored:
            task.todo.cut(start, end)
        self._tasks.append(task)
        self.total += task.missing
        self._follow(task.spaces[0])
        for first in (Wish(task.pid, address, 1) for address in lazy.firsts):
            self._firsts.add((task.pid, first.start))
            if not stored.at(first.start):
                task.todo.cut(first.start, first.end)
                self._hurry(first)

    def _all_restored(self) -> None:
        """The mappings are where they belong: pages can be put in place."""
        self._restored = True
        self.on_restored()
        self._firsts = {(task, at) for task, at in sorted(self._firsts) if not self._have(Wish(task, at, 1))}
        self._listen_to("b")
        self._let_start()

    def _let_start(self) -> None:
        """Tell who waits for it that the tasks may run, if they may."""
        if self._restored and not self._firsts:
            while self._starters:
                with self._starters.pop() as peer, contextlib.suppress(OSError):
                    peer.sendall(b".")

    def _hurry(self, wish: Wish) -> None:
        self._urgent[wish.task, wish.start] = wish
        if asker := self._askers.get("d"):
            asker.ask(wish)

    def _follow(self, space: Space) -> None:
        self._watch(space.descriptor, lambda: self._heed(space, uffd.events(space.descriptor)))

    def _heed(self, space: Space, events: list[uffd.Event]) -> None:
        for event in events:
            outcome = pages_filler.handle(space, event)
            if isinstance(outcome, Space):
                self.on_fork(outcome.descriptor)
                self._follow(outcome)
            elif outcome:
                # Where CRIU itself wants it, before all is restored, this task's mappings are in their places.
                self._firsts.discard((outcome.task, outcome.start))
                if not self._have(outcome) and not self._comes_soon(outcome):
                    space.task.taken(outcome)
                    self._hurry(outcome)

    def _have(self, wish: Wish) -> bool:
        """Whether its first page is in the store: then it is put in place."""
        if not self._store.spans(wish.task).at(wish.start):
            return False
        found = self._store.take(wish.task, wish.size, wish.start)
        assert found
        self._fill(found, self._store.buffer)
        return True

    def _comes_soon(self, wish: Wish) -> bool:
        """Whether its first page is asked for already, and no farther off than a request of its own would be."""
        if (wish.task, wish.start) in self._urgent:
            return True
        bulk = self._askers.get("b")
        return bulk is not None and self._restored and bulk.comes_within(wish, NEAR)

    # The service

    def _service_comes(self, peer: socket.socket) -> None:
        peer.settimeout(_HANDSHAKE_S)
        with contextlib.suppress(OSError):
            kind = peer.recv(1).decode(errors="replace")
            if kind in ("b", "d"):
                self._source_comes(kind, peer)
                return
            if kind == "w":
                peer.sendall(self._status())
                self._waiters.append(peer)
                return
            if kind == "f":
                self._starters.append(peer)
                self._let_start()
                return
            if kind == "s":
                self._keep_for_later(peer)
            if kind == "l":
                self._left = True
                peer.sendall(b".")
            if kind == "q":
                raise Finished
        peer.close()

    def _keep_for_later(self, peer: socket.socket) -> None:
        peer.settimeout(None)
        try:
            pages_store.receive(peer, self._store)
        except (OSError, PhaulError):
            # What is not true any more may not have been taken back.
            self._store = Store()
            raise

    def _source_comes(self, kind: str, peer: socket.socket) -> None:
        self._lose(kind)
        asker = self._askers[kind] = Asker(peer)
        if kind == "d":
            for wish in self._urgent.values():
                asker.ask(wish)
        self._listen_to(kind)

    def _listen_to(self, kind: str) -> None:
        """What the bulk brings can only be put in place when all is restored: until then it waits on its way."""
        asker = self._askers.get(kind)
        if asker and (kind == "d" or self._restored):
            self._watch(asker.socket, lambda: self._receive(kind, asker), lambda: self._send(kind, asker))

    def _lose(self, kind: str) -> None:
        """The connection is gone, or another one takes its place: its wishes are open again."""
        asker = self._askers.pop(kind, None)
        if asker:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(asker.socket)
            asker.socket.close()
            if kind == "b":
                for wish in asker.asked:
                    self._task(wish.task).ask_again(wish)

    def _task(self, pid: int) -> Task:
        return next(task for task in self._tasks if task.pid == pid)

    def _ask(self) -> None:
        """Keep the bulk's window full, and what is to be sent on its way."""
        bulk = self._askers.get("b")
        if bulk:
            for task in self._tasks:
                while bulk.has_room and (wish := task.next_wish()):
                    bulk.ask(wish)
        for kind, asker in list(self._askers.items()):
            self._send(kind, asker)

    def _is_current(self, kind: str, asker: Asker) -> bool:
        """Another may have taken its place between the selector's word and the call."""
        return self._askers.get(kind) is asker

    def _send(self, kind: str, asker: Asker) -> None:
        if not self._is_current(kind, asker):
            return
        try:
            asker.write()
        except OSError:
            self._lose(kind)
            return
        with contextlib.suppress(KeyError):
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if asker.wants_out else 0)
            key = self._selector.get_key(asker.socket)
            self._selector.modify(asker.socket, wanted, key.data)

    def _receive(self, kind: str, asker: Asker) -> None:
        if not self._is_current(kind, asker):
            return
        try:
            wish = asker.read()
        except OSError as error:
            LOG.info("the channel %s to the source is lost: %s", kind, error)
            self._lose(kind)
            return
        if wish and kind == "d":
            self._hurried(wish, asker)
        elif wish:
            self._fill(wish, asker.buffer)

    def _hurried(self, wish: Wish, asker: Asker) -> None:
        """One of the urgent ones has come; where its mapping may not be in its place yet, it is kept until it is."""
        name = wish.task, wish.start
        self._urgent.pop(name, None)
        if name in self._firsts and not self._restored:
            self._store.put(wish, asker.pages(wish))
            return
        self._fill(wish, asker.buffer)
        self._firsts.discard(name)
        self._let_start()

    def _fill(self, wish: Wish, buffer: int) -> None:
        task = self._task(wish.task)
        while events := pages_filler.fill(task, wish, buffer):
            for space, event in events:
                if event.kind == uffd.PAGEFAULT:
                    # Serving it takes the buffer that is being filled from.
                    self._faults.append((space, event))
                else:
                    self._heed(space, [event])

    # The end

    def _status(self) -> bytes:
        return json.dumps({"missing": self.missing if self._restored else -1, "total": self.total}).encode() + b"\n"

    def _tell(self, missing: int) -> None:
        """Once the source has sent all of it, though it may not be in its place yet."""
        if self._told or not self._restored or missing:
            return
        self._told = True
        (self._directory / COMPLETE).write_text(f"{self.total}\n")
        for waiter in self._waiters:
            with contextlib.suppress(OSError):
                waiter.sendall(self._status())


def listening(path: Path) -> socket.socket:
    """A local socket of that path, however long the path is."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    listener = socket.socket(socket.AF_UNIX)
    directory = os.open(path.parent, os.O_PATH)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
    listener.listen(8)
    return listener


def _leave_cgroups() -> None:
    """A unit of systemd that ends takes along whoever is in its cgroup."""
    for mount in procfs.mounts(procfs.PROC / "self" / "mountinfo"):
        if mount.kind.startswith("cgroup"):
            with contextlib.suppress(OSError):
                (Path(mount.point) / "cgroup.procs").write_text(str(os.getpid()))


def main() -> None:
    """`python3 -c … DIRECTORY IMAGES WORK HAUL`: says "ready" on standard output when it listens."""
    from phaul import log, places

    directory, images, work, haul = sys.argv[1:]
    log.setup(verbosity=0, stream=False)
    log.to_file(places.log_dir(haul) / "pager.log")
    _leave_cgroups()
    # Nothing but it has the pages that it has not put in place.
    with contextlib.suppress(PermissionError):
        Path("/proc/self/oom_score_adj").write_text("-900")
    importlib.import_module("pycriu")
    pager = Pager(Path(directory), Path(images), Path(work))
    keepers: list[Keeper] = []

    def keep() -> None:
        keepers.append(Keeper(haul))
        pager.on_fork = keepers[0].add

    pager.on_restored = keep
    os.write(1, b"ready\n")
    try:
        pager.run()
    except Finished:
        return
    except BaseException:
        LOG.exception("the pager of haul %s failed", haul)
        raise
    for keeper in keepers:
        keeper.dismiss()
    LOG.info("all of the %d bytes have come; %.2f s of CPU time", pager.total, time.process_time())
