"""A pager as a process, a puppet whose memory it fills, and a source that answers with what is known of each address.

The userfaultfd is a real one.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from lab.waiting import until
from puppet import PAGE, WORDS, Puppet, Reading

from phaul.pages_wire import REQUEST_BYTES, Wish, wish_of

ROOT = Path(__file__).resolve().parent.parent
BASE, ELSEWHERE = 0x100000000000, 0x200000000000
INNER = 7
ZEROS = 64 * PAGE  # of every four blocks of this size the last one is of zeros
SOON = 20
# The pager, with images that are JSON, and a driver that kills whom the file names.
PROGRAM = """
import json, os, sys, time, types
sys.path.insert(0, sys.argv.pop(1))
def load(file):
    entries = json.load(file)
    return {"magic": "MM" if "vmas" in entries[0] else "PAGEMAP", "entries": entries}

sys.modules["pycriu"] = types.SimpleNamespace(images=types.SimpleNamespace(load=load))
from phaul import pager, pager_keeper, pages_images
pages_images._bound = lambda data: None

def kill(haul):
    assert haul == "the-haul"
    time.sleep(0.3)  # the keeper may be slow: nobody must read zeros meanwhile
    os.kill(int(open("victim").read()), 9)

pager._leave_cgroups, pager_keeper._kill = lambda: None, kill
pager.main()
"""


def known(address: int) -> int:
    """What the frozen task has at a page: the number that all of it repeats."""
    return 0 if address // ZEROS % 4 == 3 else address | 1


def content(address: int, pages: int) -> Reading:
    return [known(at) for at in range(address, address + pages * PAGE, PAGE)]


class Channel:
    """One connection of the source to the pager; it answers as many wishes as it is allowed to."""

    def __init__(self, pager: Path, kind: str, *, allowed: int) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(pager / "pager.sock"))
        self.socket.sendall(kind.encode())
        self.asked: list[Wish] = []
        self.answered = 0
        self._allowed = threading.Semaphore(allowed)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._more = threading.Semaphore(0)
        self._reader.start()
        self._writer.start()

    def allow(self, count: int = 1 << 20) -> None:
        self._allowed.release(count)

    def await_asked(self, count: int) -> list[Wish]:
        until(lambda: len(self.asked) >= count, f"{count} wishes", timeout=SOON, interval=0.002)
        return self.asked

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._more.release()
        self._allowed.release()
        self._writer.join()
        self.socket.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while len(data := self.socket.recv(REQUEST_BYTES, socket.MSG_WAITALL)) == REQUEST_BYTES:
                self.asked.append(wish_of(data))
                self._more.release()

    def _write(self) -> None:
        with contextlib.suppress(OSError, IndexError):
            while True:
                self._more.acquire()
                self._allowed.acquire()
                wish = self.asked[self.answered]
                words = content(wish.start, wish.pages)
                pages = b"".join(struct.pack("<Q", word) * WORDS for word in words) if any(words) else b""
                self.socket.sendall(wish.answer(len(pages)) + pages)
                self.answered += 1


class Stage:
    """A puppet with a mapping of so many pages at BASE, its pager, and the source's channels.

    All but the first of the pages are missing; where it is not to `begin`, the mapping is not there yet.
    """

    def __init__(self, where: Path, pages: int, *, begin: bool = True) -> None:
        self.pages = pages
        self.directory, self.work, images = where / "pages", where / "work", where / "images"
        images.mkdir()
        area = {"start": BASE, "end": BASE + pages * PAGE}
        (images / f"mm-{INNER}.img").write_text(json.dumps([{"vmas": [area]}]))
        lazy = {"vaddr": BASE, "nr_pages": pages, "flags": 2}
        (images / f"pagemap-{INNER}.img").write_text(json.dumps([{"pages_id": 1}, lazy]))
        self.puppet = Puppet()
        (where / "victim").write_text(str(self.puppet.pid))
        self.pager = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, ROOT, self.directory, images, self.work, "the-haul"],
            stdout=subprocess.PIPE,
            cwd=where,
            env={**os.environ, "PHAUL_LOGS": str(where / "logs")},
        )
        self.log = where / "logs" / "the-haul" / "pager.log"
        self.channels: list[Channel] = []
        assert self.pager.stdout
        assert self.pager.stdout.readline() == b"ready\n"
        self.puppet.do("hand_over", str(self.work / "lazy-pages.socket"), INNER)
        if begin:
            self.puppet.do("lack", BASE, pages)
            first = self.channel("d")
            self.puppet.do("restored")
            assert self.startable().recv(1) == b"."
            first.close()

    @property
    def lacking(self) -> int:
        """Bytes, once it has begun."""
        return (self.pages - 1) * PAGE

    def channel(self, kind: str, *, allowed: int = 1 << 20) -> Channel:
        self.channels.append(Channel(self.directory, kind, allowed=allowed))
        return self.channels[-1]

    def await_waiting(self, what: str, count: int = 1) -> None:
        """So many of the puppet's threads are in that function of the kernel."""
        until(lambda: self.puppet.do("waiting").count(what) >= count, f"{count} in {what}", timeout=SOON)

    def completes(self) -> None:
        """The pager ends because nothing is missing any more."""
        try:
            assert self.pager.wait(SOON) == 0, self.log.read_text()
        except subprocess.TimeoutExpired:
            pytest.fail(f"something stays missing: {self.status()}")
        assert (self.directory / "complete").exists()

    def startable(self) -> socket.socket:
        """Where the pager says that the puppet may run."""
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(SOON)
        peer.connect(str(self.directory / "pager.sock"))
        peer.sendall(b"f")
        return peer

    def say(self, word: str) -> None:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(self.directory / "pager.sock"))
            peer.sendall(word.encode())
            peer.recv(1)

    def status(self) -> dict[str, int]:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(self.directory / "pager.sock"))
            peer.sendall(b"w")
            found: dict[str, int] = json.loads(peer.makefile().readline())
            return found

    def close(self) -> None:
        self.puppet.close()
        self.pager.kill()
        self.pager.wait()
        assert self.pager.stdout
        self.pager.stdout.close()
        for channel in self.channels:
            channel.close()
