"""A haul type that nobody foresaw: one file and one row of the table, moved by the real workers over real TLS."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from phaul import check, htype, journal, places
from phaul.display import Plain
from phaul.errors import Blocked, HaulFailed, Refused, UsageError
from phaul.iters import Haul, Outcome
from phaul.keys import Identity, Peers
from phaul.mstats import Stats
from phaul.targets import TlsReach

# A note is a directory with a file "text": it is moved by writing it down, and released by taking its hold away.
DRIVER = """
import contextlib
import json
from pathlib import Path
from phaul.errors import Blocker, Caution, HaulFailed, Refused
from phaul.overview import Answer, Overview, Part
from phaul.htype import Capabilities, Dumped, Tree, Written
from phaul.messages_pb2 import Expectation

TOP = Path(__file__).parent
CAPABILITIES = Capabilities({capabilities})

def told(word):
    with (TOP / "told").open("a") as file:
        file.write(word + " ")

def add_arguments(parser):
    parser.add_argument("subject", metavar="note")

class Source:
    def __init__(self, subject, options):
        self.name, self.here = subject, TOP / "here" / subject
        if not self.here.exists():
            raise Refused(f"There is no note {{subject!r}}.", code="no-such-note")
    def check(self):
        found = [Caution("old", "It is old", "copy it soon")] if (self.here / "old").exists() else []
        return found + [Blocker("secret", "It is secret.")] if (self.here / "secret").exists() else found
    def facts(self):
        return {{"pen": "2"}}
    def overview(self, lacks):
        return Overview((Part("image", "paper", len(lacks)), Part("memory", "memory", 11)))
    def wanted(self):
        return {{"note": self.name, "memory": 0, "breaks": (self.here / "breaks").exists()}}
    def trees(self):
        return [Tree(self.here / "tree", "volume", "/", self.here / "tree")] if CAPABILITIES.file_system else []
    def written(self):
        return Written()
    def history(self):
        return iter([("margin", iter([b"se", b"en"]))])
    def recent(self):
        return b"signed"
    def image(self, lacks):
        told("image:" + ",".join(lacks))
        return iter([b"x" * 10, b"y"])
    @contextlib.contextmanager
    def poised(self, journal, images, logs, *, lazy):
        told("poised")
        yield
        told("unpoised")
    def freeze(self, journal):
        journal.push("hold", note=self.name)
        journal.note(note=self.name)
        (self.here / "held").touch()
        told("freeze")
    def dump(self, images, *, lazy):
        (images / "text.img").write_bytes((self.here / "text").read_bytes())
        return Dumped({{"colour": "blue"}}, Expectation())
    def stands_still(self):
        told("still")
    @staticmethod
    def finish(facts):
        told("finish")
        (TOP / "here" / facts["note"] / "text").unlink()
        return ["The note here is burnt."]
    @staticmethod
    def undo(kind, args):
        told("undo-" + kind)
        (TOP / "here" / args["note"] / "held").unlink(missing_ok=True)

class Target:
    def __init__(self, wanted, journal, policy):
        self.wanted, self.journal = wanted, journal
        self.there = TOP / "there" / wanted["note"]
    @staticmethod
    def admit(wanted, policy):
        return []
    @staticmethod
    def check(wanted, policy):
        taken = (TOP / "there" / wanted["note"]).exists()
        found = (Blocker("note-taken", "It is there already."),) if taken else ()
        return Answer(found, ("page-1", "page-2"), {{"pen": wanted["facts"]["pen"] + ".1"}})
    def receive_image(self, chunks):
        told("received:%d" % sum(map(len, chunks)))
    def prepare(self):
        self.journal.push("note", path=str(self.there))
        (self.there / "tree").mkdir(parents=True)
        return [self.there / "tree"] if CAPABILITIES.file_system else []
    def keep_history(self, name, chunks):
        told(f"history:{{name}}-{{b''.join(chunks).decode()}}")
    def keep_recent(self, chunks):
        told(f"recent:{{b''.join(chunks).decode()}}")
    def poise(self, images, *, lazy):
        told("poise")
    def restore(self, images, options, logs):
        told("restore-" + options["colour"])
        if self.wanted["breaks"]:
            raise HaulFailed("The note fell to pieces.", code="pieces")
        (self.there / "held").write_bytes((images / "text.img").read_bytes())
        self.journal.note(container=self.wanted["note"], path=str(self.there))
        return self.wanted["note"]
    def pids(self):
        return []
    def commence(self):
        pass
    def ready(self):
        if not (self.there / "held").exists():
            raise HaulFailed("It is not held.", code="not-held")
    @staticmethod
    def release(facts):
        told("release")
        (Path(facts["path"]) / "held").rename(Path(facts["path"]) / "text")
    @staticmethod
    def settle(facts):
        told("settle")
    @staticmethod
    def undo(kind, args):
        import shutil
        told("undo-" + kind)
        shutil.rmtree(args["path"], ignore_errors=True)
"""
ROOT = Path(__file__).resolve().parent.parent
SERVICE = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:]
from phaul import htype, keys, listener, service
htype.TABLE["note"] = "p_haul_note"
etc = Path(sys.argv[1]) / "etc"
serving = service.Service()
ears = listener.Listener(
    serving.handle, keys.Identity.load_or_make(etc), keys.Peers(etc), address=("127.0.0.1", 0)
)
print(ears.port, flush=True)
sys.stdin.read()
ears.close()
serving.close()
"""
NOTHING_ELSE = (
    "file_system=False, image=False, history=False, "
    "hold=True, pre_dump=False, post_copy=False, tcp_keep=False, compress=False"
)
OPTIONS = argparse.Namespace(
    img_path=None,
    barrier=None,
    keep_images=False,
    skip_cpu_check=False,
    skip_criu_check=False,
    mode="auto",
    compress="auto",
    max_downtime=None,
    postcopy_timeout=60,
)


class World:
    """The source in this process, and the service, as another host would run it, in another."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.identity, self.peers = Identity.load_or_make(top / "etc"), Peers(top / "etc")
        self.peers.add("127.0.0.1", self.identity.pem)
        self.lines = io.StringIO()
        roots = {f"PHAUL_{name}": str(top / "far" / name.lower()) for name in ("STATE", "RUN", "LOGS")}
        self.far = subprocess.Popen(
            [sys.executable, "-c", SERVICE, top, ROOT],
            env={**os.environ, **roots},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.far.stdout.readline())

    def note(self, name: str, *marks: str) -> Path:
        here = self.top / "here" / name
        (here / "tree" / "sub").mkdir(parents=True)
        (here / "text").write_text("dear reader")
        (here / "tree" / "sub" / "appendix").write_text("more")
        for mark in marks:
            (here / mark).touch()
        return here

    def haul(self, name: str) -> Outcome:
        driver = htype.load("note")
        reach = TlsReach("127.0.0.1", self.port, self.identity, self.peers)
        options = argparse.Namespace(**vars(OPTIONS), port=self.port)
        self.stats = Stats()
        source = driver.source(name, options)
        return Haul(driver, source, reach, options, self.stats, Plain(self.stats, self.lines)).run()

    def check(self, name: str) -> check.Report:
        driver = htype.load("note")
        options = argparse.Namespace(**vars(OPTIONS), port=self.port, bandwidth=0)
        reach = TlsReach("127.0.0.1", self.port, self.identity, self.peers)
        return check.examine(driver, driver.source(name, options), reach, options)

    def told(self) -> list[str]:
        return (self.top / "told").read_text().split() if (self.top / "told").exists() else []

    def there(self, name: str) -> Path:
        return self.top / "there" / name

    def states(self, side: str) -> list[str]:
        top = self.top / "far" if side == journal.TARGET else self.top
        return [journal.read(path).state for path in (top / "state" / "journal").glob(f"*.{side}")]

    def images_left(self) -> list[Path]:
        return [path for top in (self.top, self.top / "far") for path in (top / "state" / "work").glob("*")]

    def close(self) -> None:
        """The service settles what it is at, and ends."""
        self.far.communicate(timeout=60)
        assert self.far.returncode == 0


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(htype.TABLE, "note", "p_haul_note")
    monkeypatch.delitem(sys.modules, "p_haul_note", raising=False)
    roots = {"STATE": "state", "RUN": "run", "LOGS": "logs", "WORK": "state/work", "JOURNALS": "state/journal"}
    for name, directory in roots.items():
        monkeypatch.setattr(places, name, tmp_path / directory)
    for name in ("ETC", "STATE", "RUN", "LOGS"):  # for the guard that the worker starts
        monkeypatch.setenv(f"PHAUL_{name}", str(tmp_path / name.lower()))
    tool = tmp_path / "bin" / "criu"  # none is used, but both ends are asked for its version
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho Version: 4.2.1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    made = World(tmp_path)
    yield made
    if made.far.returncode is None:
        made.close()


def write_driver(world: World, capabilities: str) -> None:
    (world.top / "p_haul_note.py").write_text(DRIVER.format(capabilities=capabilities))


def test_what_is_not_in_the_table_is_unknown() -> None:
    with pytest.raises(UsageError, match="knows docker, pid"):
        htype.load("note")


def test_it_moves(world: World) -> None:
    write_driver(world, NOTHING_ELSE)
    here = world.note("letter")
    outcome = world.haul("letter")
    assert outcome == Outcome("letter", ("The note here is burnt.",))
    assert (world.there("letter") / "text").read_text() == "dear reader"
    assert not (here / "text").exists()
    assert world.told()[:7] == ["poised", "poise", "freeze", "unpoised", "restore-blue", "still", "release"]
    world.close()
    assert sorted(world.told()[7:]) == ["finish", "settle"]
    assert world.states(journal.SOURCE) == world.states(journal.TARGET) == ["done"]
    assert world.images_left() == []


def test_no_image_and_no_trees_travel_where_it_has_none(world: World) -> None:
    write_driver(world, NOTHING_ELSE)
    world.note("letter")
    world.haul("letter")
    assert world.stats.sent == {**dict.fromkeys(world.stats.sent, 0), "memory": len("dear reader")}
    assert not any(word.startswith(("image", "received")) for word in world.told())
    assert not (world.there("letter") / "tree" / "sub").exists()
    assert "sync" not in world.lines.getvalue()


def test_image_and_trees_and_history_travel_where_it_has_them(world: World) -> None:
    write_driver(world, NOTHING_ELSE.replace("False", "True", 3))
    world.note("letter")
    world.haul("letter")
    words = ["history:margin-seen", "image:page-1,page-2", "received:11", "recent:signed"]
    assert sorted(word for word in world.told() if ":" in word) == words
    assert world.told().index("freeze") < world.told().index("recent:signed") < world.told().index("restore-blue")
    assert world.stats.sent["log"] == len("seensigned")
    assert (world.there("letter") / "tree" / "sub" / "appendix").read_text() == "more"
    assert world.stats.sent["image"] == 11 and world.stats.sent["volume"] > 0
    assert "sync" in world.lines.getvalue()


def test_it_is_held_until_the_source_has_committed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write_driver(world, NOTHING_ELSE)
    world.note("letter")
    seen: list[tuple[str, list[str], bool]] = []
    advance = journal.Journal.advance

    def watched(record: journal.Journal, state: str) -> None:
        if (record.side, state) == (journal.SOURCE, journal.COMMITTED):
            seen.append((state, world.states(journal.TARGET), (world.there("letter") / "text").exists()))
        advance(record, state)

    monkeypatch.setattr(journal.Journal, "advance", watched)
    world.haul("letter")
    assert seen == [("committed", ["held"], False)]


def test_its_refusals_are_told_and_nothing_is_touched(world: World) -> None:
    write_driver(world, NOTHING_ELSE)
    with pytest.raises(Refused, match="no note 'postcard'"):
        world.haul("postcard")
    world.note("letter", "secret")
    world.there("letter").mkdir(parents=True)
    with pytest.raises(Blocked) as caught:
        world.haul("letter")
    assert [blocker.code for blocker in caught.value.blockers] == ["secret", "note-taken"]
    assert world.told() == [] and world.states(journal.SOURCE) == world.states(journal.TARGET) == []


def test_what_cannot_be_held_is_refused(world: World) -> None:
    write_driver(world, NOTHING_ELSE.replace("hold=True", "hold=False"))
    world.note("letter")
    with pytest.raises(Blocked) as caught:
        world.haul("letter")
    assert [blocker.code for blocker in caught.value.blockers] == ["hold"]


def test_its_warnings_are_told_and_it_moves(world: World) -> None:
    write_driver(world, NOTHING_ELSE)
    world.note("letter", "old")
    world.haul("letter")
    assert "Warning: It is old: copy it soon.\n" in world.lines.getvalue()
    assert (world.there("letter") / "text").exists()


def test_its_check(world: World) -> None:
    """What both hosts say, and nothing is touched; the estimate is of what the driver says that would move."""
    write_driver(world, NOTHING_ELSE)
    world.note("letter", "old")
    told = world.check("letter")
    assert (told.verdict, [finding.code for finding in told.findings]) == ("warnings", ["old"])
    assert told.survey.there and (told.survey.here.shown, told.survey.there.shown) == ({"pen": "2"}, {"pen": "2.1"})
    assert told.overview and [part.size for part in told.overview.parts] == [2, 11]
    assert told.outlook and told.outlook.link > 0
    world.note("postcard", "secret", "old")
    told = world.check("postcard")
    assert (told.verdict, [finding.code for finding in told.findings]) == ("blocked", ["secret", "old"])
    assert world.told() == [] and world.states(journal.SOURCE) == world.states(journal.TARGET) == []


def test_a_restore_that_fails_is_taken_back_on_both_sides(world: World) -> None:
    write_driver(world, NOTHING_ELSE)
    here = world.note("letter", "breaks")
    with pytest.raises(HaulFailed, match=r"fell to pieces\. letter runs on here\.") as caught:
        world.haul("letter")
    assert caught.value.code == "pieces"
    assert (here / "text").exists() and not (here / "held").exists()
    assert not world.there("letter").exists()
    assert world.states(journal.SOURCE) == world.states(journal.TARGET) == ["undone"]
    assert world.images_left() == []
    assert world.told()[2:5] == ["freeze", "unpoised", "restore-blue"] and sorted(world.told()[5:]) == [
        "undo-hold",
        "undo-note",
    ]
