"""Targets of a haul's own words: requests to the service, a container's documents, what the target answers."""

from __future__ import annotations

import argparse
import contextlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phaul import (
    check_document,
    check_text,
    docker_config,
    docker_logs,
    documents,
    htype,
    journal,
    log_bundle,
    places,
    preflight,
    verify,
)
from phaul.check import Report
from phaul.connection import Connection
from phaul.docker_target import DockerTarget
from phaul.docker_target_checks import Check as LookHere
from phaul.errors import PhaulError
from phaul.messages_pb2 import (
    Begin,
    Check,
    Checked,
    Complete,
    Discard,
    Expectation,
    Fact,
    Failure,
    Finding,
    HostFacts,
    Logs,
    OpenFile,
    Ping,
    Poise,
    Prepare,
    Release,
    Reply,
    Request,
    Restore,
    State,
    Task,
    Verify,
)
from phaul.policy import EVERYTHING, STRICT
from phaul.service import Service, _Talk
from phaul.xem_rpc import Caller

from . import documents_of_a_haul as said
from . import empty_engine, mutators, stage
from .table import Target
from .wire_targets import message, must_be_harmless

HAUL = "20260101-000000-0badcafe"
OTHER = "20260101-000000-0badcaff"
HERE = "here"
DRIVERS = {name: htype.load(name) for name in htype.TABLE}  # loaded here, where what is loaded is looked into

# The service


def requests(data: bytes) -> None:
    """Messages one after another to a service that begins with nothing, and has nothing left in the end."""
    service = Service()
    with stage.fed(data) as link:
        talk, connection = _Talk(service, link, EVERYTHING), Connection(link)
        try:
            for _ in range(8):
                request = connection.recv_or_end(Request)
                if request is None:
                    return
                with contextlib.suppress(PhaulError):
                    talk.handle(request)
        finally:
            talk.ended()
            service.close()
            assert not service._sessions, "a session stays"
            for directory in (places.JOURNALS, places.WORK, places.LOGS):
                stage.emptied(directory)


def sent_requests() -> Iterator[bytes]:
    (container,), (tasks,) = said.written(said.WANTED), said.written(said.TASKS)
    begin = Request(begin=Begin(haul=HAUL, haul_type="docker", subject="web", wanted=container))
    again = Request(begin=Begin(haul=OTHER, haul_type="pid", subject="4711", wanted=tasks))
    for request in (
        Request(ping=Ping()),
        Request(check=Check(haul_type="docker", wanted=container)),
        Request(check=Check(haul_type="pid", wanted=tasks)),
        Request(logs=Logs(haul=HAUL)),
        Request(state=State(haul=HAUL)),
        Request(discard=Discard(haul=HAUL)),
    ):
        yield message(request.SerializeToString())
    for request in (
        again,
        Request(prepare=Prepare()),
        Request(prepare=Prepare(lazy=True)),
        Request(poise=Poise()),
        Request(restore=Restore(options=b"{}")),
        Request(restore=Restore(options=said.written(said.OPTIONS)[0])),
        Request(verify=Verify(expectation=expectation())),
        Request(release=Release()),
        Request(complete=Complete(haul=HAUL)),
        Request(state=State(haul=HAUL)),
        Request(logs=Logs(haul=HAUL)),
        Request(discard=Discard()),
    ):
        yield message(begin.SerializeToString()) + message(request.SerializeToString())


# Documents of a container


def wanted(data: bytes) -> None:
    """All that is read of it before the engine is told anything, and what the engine would be told."""
    document = documents.read(data, DRIVERS["docker"].wanted)
    for policy in (STRICT, EVERYTHING):
        LookHere(document, policy, HERE).findings()
    inspect = document["inspect"]
    fixed = [network["Name"] for network in document["networks"]]
    docker_config.create_body(inspect, "image", fixed=fixed, names=document["devices"])
    for network in document["networks"]:
        docker_config.network_body(network)
    for volume in docker_config.volumes(inspect):
        docker_config.is_anonymous(inspect, volume)
    must_stay_in_their_place(document)


def containers() -> list[bytes]:
    return said.written(said.WANTED, said.on_macvlan(), said.on_host())


def must_stay_in_their_place(document: dict[str, Any]) -> None:
    """No name leads to another place of the engine's API than it is put into."""
    names = [document["name"], *document["image"]["tags"], *(one["Name"] for one in document["networks"])]
    names += [volume["Name"] for volume in document["volumes"]]
    for name in names:
        assert not {".", ".."} & set(name.split("/")), name
    for volume in document["volumes"]:
        assert "/" not in volume["Name"]


def options(data: bytes) -> None:
    """What a restore is told, by a container of one network."""
    document = documents.read(data, DRIVERS["docker"].options)
    target = DockerTarget.__new__(DockerTarget)
    target.inspect, target.wanted = said.INSPECT, said.WANTED
    target.journal = _Notes()  # type: ignore[assignment]
    made = target._network(document)
    assert set(made.criu.splitlines()) <= {"network-lock skip", "tcp-close", "skip-in-flight"}


class _Notes:
    def note(self, **_facts: Any) -> None:
        pass


def tasks(data: bytes) -> None:
    driver = DRIVERS["pid"]
    driver.target.check(documents.read(data, driver.wanted), EVERYTHING)


# What the target answers


class _Subject:
    """A source that has nothing to say."""

    name = "web"
    check = staticmethod(list)
    facts = staticmethod(dict)
    wanted = staticmethod(lambda: {"memory": 0})


ASKED = argparse.Namespace(
    skip_criu_check=False, skip_cpu_check=False, mode="auto", max_downtime=None, compress="auto", force=False
)


def checked(data: bytes) -> None:
    """The answer to a check, all that is concluded from it, and what people and programs are shown of it."""
    with stage.fed(data) as link:
        try:
            caller = Caller(Connection(link))
            survey = preflight.survey(DRIVERS["docker"], _Subject(), caller, ASKED)  # type: ignore[arg-type]
        except PhaulError as error:
            must_be_harmless(error)
            raise
    report = Report("docker", "web", "there", survey)
    check_document.of(report)
    shown = io.StringIO()
    check_text.show(report, shown, 100)
    assert all(line.isprintable() for line in shown.getvalue().split("\n")), shown.getvalue()


def replies() -> Iterator[bytes]:
    facts = HostFacts(hostname="there\x1b[1m", machine="x86_64", kernel="6.18.0-1-amd64", criu="4.2", rsync="3.4")
    facts.capabilities.extend(["hold", "post_copy"])
    facts.clock, facts.cpu = 1.7e9, "avx sse"
    finding = Finding(code="disk-full", reason="No room\x07", remedy="make some", subject="disk", blocks=True)
    shown = [Fact(name="Docker", value="28\x1b[0m")]
    for reply in (
        Reply(checked=Checked(facts=facts, lacks=["config"], shown=shown)),
        Reply(checked=Checked(facts=facts, findings=[finding, finding])),
        Reply(failure=Failure(code="x", status=3, sentence="No.", detail="more\x1b]0;title\x07")),
        Reply(failure=Failure(status=3, blockers=[finding])),
    ):
        yield message(reply.SerializeToString())


# What is held against what was frozen


def expectation() -> Expectation:
    return Expectation(
        tasks=[Task(pid=1, threads=2, comm="sh\x1b[m"), Task(pid=9, threads=1, comm="x")],
        files=[OpenFile(pid=1, fd=3, path="/a", size=5), OpenFile(pid=1, fd=4, path="/b", size=0)],
        mounts=["/", "/proc/x", "/data"],
    )


def expected(data: bytes) -> None:
    with stage.fed(data) as link:
        verify.check(Connection(link).recv(Expectation), expectation())


def expectations() -> Iterator[bytes]:
    other = expectation()
    other.mounts.append("/other")
    for one in (expectation(), other, Expectation()):
        yield message(one.SerializeToString())


# Logs


def records(data: bytes) -> None:
    assert sum(len(text) for _, text in docker_logs.records(data)) < max(1, len(data))


def recorded() -> Iterator[bytes]:
    yield docker_logs.RECORD.pack(1, 3) + b"abc" + docker_logs.RECORD.pack(2, 0)
    yield docker_logs.RECORD.pack(3, 3) + b"abc"


@contextlib.contextmanager
def _engine_root() -> Iterator[None]:
    global _ROOT
    with stage.directory() as _ROOT:
        (_ROOT / "containers" / said.ID).mkdir(parents=True)
        yield


_ROOT = Path("/nonexistent")


def log_name(data: bytes) -> None:
    """The name of a log file: it comes to be in the container's directory, under one of the engine's names."""
    driver = ("json-file", "local", "none")[data[0] % 3] if data else "json-file"
    inspect = {"HostConfig": {"LogConfig": {"Type": driver}}}
    try:
        name = data[1:].decode(errors="surrogateescape")
        docker_logs.keep(inspect, str(_ROOT), said.ID, name, iter([b"x"]))
    finally:
        for found in stage.everything_in(_ROOT):
            rest = found.removeprefix(f"containers/{said.ID}/")
            head = "local-logs/container.log" if rest.startswith("local-logs/") else f"{said.ID}-json.log"
            assert docker_logs.SUFFIX.fullmatch(rest.removeprefix(head)), found
        stage.emptied(_ROOT / "containers" / said.ID)


def bundled(data: bytes) -> None:
    """A tar of two plain files, whatever the peer has sent for its own."""
    path = _ROOT / "containers" / "bundle.tar.gz"
    log_bundle.write(path, b"ours", data)
    with tarfile.open(path) as tar:
        assert [member.name for member in tar if member.isreg()] == ["source.tar.gz", *["target.tar.gz"] * bool(data)]


# The journal


@contextlib.contextmanager
def _journals() -> Iterator[None]:
    with stage.home():
        yield


def journals(data: bytes) -> None:
    """Read, taken up, gone over; where it is damaged it is told so, and nothing of it is written."""
    path = journal.find(journal.TARGET, HAUL)
    path.write_bytes(data)
    list(journal.unsettled(journal.TARGET))
    record = journal.take(path)
    try:
        assert path.read_bytes() == data[: data.rfind(b"\n") + 1]
        assert record.steps == tuple(sorted(record.steps, key=lambda step: -step.number))
        if record.head:
            assert record.side in journal.TRANSITIONS
            assert record.settled is (record.state in journal.SETTLED)
    finally:
        record.close()


def kept_journals() -> Iterator[bytes]:
    head = b'{"haul":"h","side":"target","type":"docker","subject":"web","peer":"p","begun":1.5,"boot":"b"}\n'
    rest = b'{"push": 0, "kind": "work", "args": {"path": "/x"}}\n{"state": "held"}\n{"note": {"container": "c"}}\n'
    yield head + rest + b'{"undone": 0}\n{"state": "running"}\n'
    yield head + rest[:-9]
    yield head + b"\0\0\0\n" + rest


TARGETS = (
    Target("requests", requests, sent_requests, empty_engine.in_place, longest=8192, mutate=mutators.of_frames),
    Target("wanted", wanted, containers, empty_engine.in_place, longest=8192, mutate=mutators.of_json),
    Target("options", options, lambda: said.written(said.OPTIONS), empty_engine.in_place, mutate=mutators.of_json),
    Target("tasks", tasks, lambda: said.written(said.TASKS), empty_engine.in_place, mutate=mutators.of_json),
    Target("checked", checked, replies, empty_engine.in_place, mutate=mutators.of_frames),
    Target("expectation", expected, expectations, mutate=mutators.of_frames),
    Target("records", records, recorded),
    Target("log-name", log_name, lambda: [b"\0.1", b"\1.12.gz", b"\0", b"\0/../x"], _engine_root, longest=64),
    Target("bundle", bundled, lambda: [b"", b"\x1f\x8b junk"], _engine_root, longest=512),
    Target("journal", journals, kept_journals, _journals, mutate=mutators.of_json_lines),
)
