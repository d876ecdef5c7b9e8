"""What breaks while memory follows: after the release it runs on whole, or is ended; before it, the source runs on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults import (
    CLEAN_S,
    STALE_SOCKET,
    Halt,
    Rest,
    all_settled,
    at_point,
    ended,
    failed,
    kill_inner,
    of_service,
    runs,
    under_way,
)
from hauling import haul, inspect, left, refused, settled, state, wait_for
from lab import Done, Host, Lab, TwoHosts, images, workloads
from lab.service import Service, pair

NAME = "hog"
MIB = 48
SLOW = ("--mode", "postcopy", "--bandwidth", "12M")  # 4 s
SLOW_STOP = ("--mode", "stopcopy", "--bandwidth", "8M")  # 6 s
HASTY = ("set=phaul.link:DEAD_AFTER_MS=2000",)
PAGES = "/run/phaul/pages"
LEFT_HERE = f"The source container {NAME} is left stopped"


@dataclass
class Hog(TwoHosts):
    """A container with much memory on a, and what both hosts held before there was a service on b."""

    lab: Lab
    rest: Rest
    id: str

    def begun(
        self, *options: str, words: tuple[str, ...] = HASTY
    ) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        return under_way(self.a, self.b, words, options, name=NAME)

    @contextlib.contextmanager
    def released(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """A haul whose container runs at b already, while most of its memory is here."""
        with self.begun(*SLOW, *options) as process:
            wait_for(lambda: self.of_restore("released") or process.poll() is not None, "its running on b")
            assert process.poll() is None, ended(process)
            yield process

    @contextlib.contextmanager
    def held(self) -> Iterator[subprocess.Popen[bytes]]:
        """A haul whose container is held at b while its memory comes."""
        with self.begun(*SLOW_STOP) as process:
            wait_for(lambda: self.of_restore("hold.sock"), "its being held on b")
            yield process

    def of_restore(self, name: str) -> list[Path]:
        """Whether P.Haul's runtime on b has such a file; the engine takes a container for started before it runs."""
        return list(self.b.path("/run/phaul/restore").glob(f"*/{name}"))

    def pagers(self) -> list[int]:
        """The pids inside b of pagers and their keepers."""
        found = []
        for cmdline in self.b.path("/proc").glob("[1-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if b"phaul.pager" in cmdline.read_bytes():
                    found.append(int(cmdline.parent.name))
        return sorted(found)

    def kill_pager(self) -> None:
        pagers = wait_for(self.pagers, "a pager")
        self.b.run("kill", "-9", str(pagers[0]))

    def moved(self, service: Service | None = None) -> None:
        """It runs on b and there alone, with all of its memory; of the haul nothing is left."""
        wait_for(lambda: runs(self.b, NAME) and state(self.a, NAME) == "exited", "its running on b alone", CLEAN_S)
        self.goes_on(self.b)
        before, after = workloads.ticks(self.a, NAME), workloads.ticks(self.b, NAME)
        assert after[: len(before)] == before, "the copy on a has gone on by itself"
        for host in (self.a, self.b):
            wait_for(lambda host=host: all_settled(host), f"the settling of the hauls of {host.name}", CLEAN_S)
            host.docker("rm", "-f", NAME)
        self.nothing_left(service)

    def stays(self, service: Service | None = None) -> None:
        """It runs on a, whole, and nothing is left of the haul."""
        wait_for(lambda: runs(self.a, NAME) and all_settled(self.a), "its running on a", CLEAN_S)
        assert inspect(self.a, NAME)["Id"] == self.id
        self.goes_on(self.a)
        wait_for(lambda: all_settled(self.b), "the settling of the haul on b", CLEAN_S)
        self.a.docker("rm", "-f", NAME)
        self.nothing_left(service)

    def goes_on(self, host: Host) -> None:
        """All of its memory is looked at once more, and was always right."""
        passes = int(workloads.lines(host, NAME)[-1][3])
        wait_for(lambda: int(workloads.lines(host, NAME)[-1][3]) > passes + 1, "a look at all of the memory", CLEAN_S)
        workloads.check_counter(workloads.ticks(host, NAME))
        workloads.check_memory(host, NAME)

    def nothing_left(self, service: Service | None) -> None:
        for host, but in ((self.a, ()), (self.b, of_service(service))):
            changes = left(host, self.rest[host.name], timeout=CLEAN_S, but=(STALE_SOCKET, *but))
            assert not changes, f"left on {host.name}: {changes} {programs(host)}"
        assert not self.pagers()
        assert not list(self.b.path("/run/phaul").glob("pages/*"))


@pytest.fixture
def hog(paired: Lab, clean_lab: Lab) -> Hog:
    for host in clean_lab.hosts:
        images.load(host, "memhog")
    rest = {host.name: settled(host) for host in clean_lab.hosts}
    return Hog(clean_lab, rest, workloads.memhog(clean_lab.host("a"), NAME, "--restart", "always", mib=MIB))


def programs(host: Host) -> list[str]:
    """The command lines of the host's processes that are Python's, and who is their parent."""
    found = host.run("sh", "-c", "ps -eo pid,ppid,stat,wchan:20,args | grep [p]ython3", check=False)
    return found.out.splitlines()


def resolve(hog: Hog, *options: str) -> Done:
    return haul(hog.a, "--resolve", NAME, *options, check=False)


def well(done: Done) -> None:
    assert done.code == 0, done


# After the release


def test_nothing_breaks(hog: Hog) -> None:
    with Service(hog.b) as service:
        with hog.released() as hauling:
            assert state(hog.a, NAME) == "paused"
            well(ended(hauling))
        hog.moved(service)


def test_cable_cut_and_joined(hog: Hog) -> None:
    with Service(hog.b, command=at_point("p.haul-service", HASTY)) as service:
        with hog.released() as hauling:
            hog.lab.cut("b")
            with pytest.raises(subprocess.TimeoutExpired):
                hauling.wait(5)  # longer than it takes to notice
            assert state(hog.a, NAME) == "paused"
            hog.lab.join("b")
            well(ended(hauling))
        hog.moved(service)


def test_cable_cut_for_too_long(hog: Hog) -> None:
    with Service(hog.b, command=at_point("p.haul-service", HASTY)) as service:
        with hog.released("--postcopy-timeout", "2") as hauling:
            hog.lab.cut("b")
            refused(ended(hauling), "memory-left", 8)
        assert state(hog.a, NAME) == "paused"
        assert runs(hog.b, NAME)
        hog.lab.join("b")
        well(resolve(hog))
        hog.moved(service)


def test_revoked_and_paired_again(hog: Hog) -> None:
    with Service(hog.b) as service:
        with hog.released() as hauling:
            hog.b.run("p.haul-service", "revoke", hog.a.ip)
            assert f"runs at {hog.b.ip}, but waits there for memory" in refused(ended(hauling), "memory-left", 8)
        assert state(hog.a, NAME) == "paused" and runs(hog.b, NAME)
        assert "has not paired this host" in refused(resolve(hog), "in-doubt", 8)
        pair(hog.a, hog.b, fresh=False)
        well(resolve(hog))
        hog.moved(service)


def test_p_haul_killed(hog: Hog) -> None:
    """Its guard serves on."""
    with Service(hog.b) as service:
        with hog.released() as hauling:
            kill_inner(hauling)
        hog.moved(service)


@pytest.mark.parametrize("word", ["int", "term"])
def test_cancelled_too_late(hog: Hog, word: str) -> None:
    with Service(hog.b) as service:
        with hog.released() as hauling:
            hauling.send_signal({"int": signal.SIGINT, "term": signal.SIGTERM}[word])
            done = ended(hauling)
            well(done)
            assert "it was too late to cancel" in done.out
        hog.moved(service)


@pytest.mark.parametrize("word", ["kill", "term"])
def test_service_ended_and_started_again(hog: Hog, word: str) -> None:
    first = Service(hog.b)
    with hog.released() as hauling:
        if word == "kill":
            os.kill(first.pid, signal.SIGKILL)
            first.process.wait(CLEAN_S)
        else:
            assert first.stop() == 0, first.log()
        assert runs(hog.b, NAME)
        with Service(hog.b) as second:
            well(ended(hauling))
            hog.moved(second)


def test_pager_killed(hog: Hog) -> None:
    with Service(hog.b) as service:
        with hog.released() as hauling:
            hog.kill_pager()
            refused(ended(hauling), "memory-lost", 8)
        wait_for(lambda: state(hog.b, NAME) != "running", "the end of the tasks on b")
        workloads.check_memory(hog.b, NAME)
        assert state(hog.a, NAME) == "paused"
        assert runs_alone(resolve(hog, "--force"), hog)
        wait_for(lambda: runs(hog.a, NAME), "its running on a")
        hog.goes_on(hog.a)
        hog.b.docker("rm", "-f", NAME)
        hog.stays(service)


def runs_alone(done: Done, hog: Hog) -> bool:
    well(done)
    return not runs(hog.b, NAME)


def test_the_sources_engine_restarts(hog: Hog) -> None:
    """It ends the frozen copy, and with it what is missing; a restart policy does not bring that to life."""
    with Service(hog.b):
        with hog.released() as hauling:
            written = workloads.file_in(hog.a, NAME, "/ticks")
            hog.a.stop_dockerd()
            hog.a.start_dockerd()
            sentence = refused(ended(hauling), "memory-lost", 8)
            assert "is whole" not in sentence, sentence
        assert inspect(hog.a, NAME)["HostConfig"]["RestartPolicy"]["Name"] == "no"
        assert state(hog.a, NAME) == "exited"
        assert workloads.file_in(hog.a, NAME, "/ticks") == written
        workloads.check_memory(hog.b, NAME)


@pytest.mark.parametrize("what", [("stop", "-t", "0"), ("rm", "-f")])
def test_it_is_stopped_at_the_target(hog: Hog, what: tuple[str, ...]) -> None:
    """Nobody needs the rest of its memory any more."""
    with Service(hog.b) as service:
        with hog.released() as hauling:
            hog.b.docker(*what, NAME)
            done = ended(hauling)
            assert done.code == 0, done
        assert state(hog.b, NAME) in ("exited", "")
        assert state(hog.a, NAME) == "exited"
        for host in (hog.a, hog.b):
            wait_for(lambda host=host: all_settled(host), f"the settling of the hauls of {host.name}", CLEAN_S)
            host.docker("rm", "-f", NAME, check=False)
        hog.nothing_left(service)


# Before it


def test_pager_killed_while_held(hog: Hog) -> None:
    with Service(hog.b) as service:
        with hog.held() as hauling:
            hog.kill_pager()
            failed(ended(hauling), "pages")
        hog.stays(service)


def test_cable_cut_while_held(hog: Hog) -> None:
    with Service(hog.b, command=at_point("p.haul-service", (*HASTY, "set=phaul.service:GRACE_SECONDS=0.1"))) as service:
        with hog.held() as hauling:
            hog.lab.cut("b")
            failed(ended(hauling), "link-lost", "unreachable")
        wait_for(lambda: runs(hog.a, NAME), "its running on a")
        hog.lab.join("b")
        hog.stays(service)


def test_p_haul_killed_while_held(hog: Hog) -> None:
    with Service(hog.b) as service:
        with hog.held() as hauling:
            kill_inner(hauling)
        hog.stays(service)


@pytest.mark.parametrize("how", ["killed", "cut off"])
def test_the_source_goes_while_criu_waits_for_its_memory(hog: Hog, how: str) -> None:
    """Nobody else has it: the restore ends, and does not wait for ever."""
    waits = "before=phaul.pages_source:Answer.fill"
    with Service(hog.b) as service, Halt(hog.a) as halt:
        with hog.begun("--mode", "postcopy", words=(*HASTY, waits, halt.word)) as hauling:
            halt.reached(hauling)
            if how == "killed":
                kill_inner(hauling)
                hog.stays(service)
                return
            hog.lab.cut("b")
            wait_for(lambda: all_settled(hog.b), "b's giving up", CLEAN_S)
            hog.lab.join("b")
            kill_inner(hauling)
        hog.stays(service)


def test_cancelled_while_held(hog: Hog) -> None:
    with Service(hog.b) as service:
        with hog.held() as hauling:
            hauling.send_signal(signal.SIGINT)
            failed(ended(hauling), "cancelled", status=9)
        hog.stays(service)


def test_service_killed_while_held(hog: Hog) -> None:
    service = Service(hog.b)
    with hog.held() as hauling:
        os.kill(service.pid, signal.SIGKILL)
        service.process.wait(CLEAN_S)
        failed(ended(hauling), "link-lost", "service-not-running")
    hog.stays()
