"""A source that is paired and sends what no P.Haul sends: it is told so, and nothing is left of it at the target."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fuzz import empty_engine
from fuzz.documents_of_a_haul import END, ID, INSPECT, NETWORK, OPTIONS, TASKS, WANTED, written
from hauling import unchanged
from lab import Host, Lab, images
from wire import SOON, pair, pool

from phaul import docker_logs, forecast, journal, places
from phaul.connection import Connection, raise_failure
from phaul.docker_target import DockerTarget
from phaul.errors import HaulFailed, PhaulError, ProtocolError, Refused
from phaul.link import Link
from phaul.messages_pb2 import Begin, Check, Discard, Failure, Ping, Poise, Prepare, Request, Restore
from phaul.policy import EVERYTHING
from phaul.relay import LENGTH
from phaul.service import Service
from phaul.xem_rpc import Caller

__all__ = ["pair", "pool"]

HAUL, OTHER = "20260101-000000-0badcafe", "20260101-000000-0badcaff"


@pytest.fixture
def target() -> Iterator[None]:
    """A host of its own directories, whose engine has nothing."""
    with empty_engine.in_place():
        yield


@pytest.fixture
def caller(target: None, pair: tuple[Link, Link], pool: ThreadPoolExecutor) -> Iterator[Caller]:
    """A control connection to a real service."""
    service = Service(EVERYTHING)
    serving = pool.submit(service._control, Connection(pair[1]))
    with contextlib.closing(Caller(Connection(pair[0]))) as calling:
        yield calling
    with contextlib.suppress(PhaulError):
        serving.result(SOON)
    service.close()
    assert not service._sessions


def begin(haul: str = HAUL, wanted: bytes = written(WANTED)[0], subject: str = "web", kind: str = "docker") -> Request:
    return Request(begin=Begin(haul=haul, haul_type=kind, subject=subject, wanted=wanted))


def refused(caller: Caller, request: Request, words: str) -> None:
    """As what no source sends; the service goes on."""
    with pytest.raises(ProtocolError, match=words):
        caller.call(request, timeout=SOON)
    caller.call(Request(ping=Ping()), timeout=SOON)


def handlers() -> int:
    return len(logging.getLogger("phaul").handlers)


@pytest.mark.parametrize("wanted", [b"", b"[1]", b'{"a":' + b"[" * 100_000, b"{}", b'{"inspect": null}'])
@pytest.mark.parametrize("kind", ["docker", "pid"])
def test_a_document_that_is_none(caller: Caller, wanted: bytes, kind: str) -> None:
    before = handlers()
    refused(caller, Request(check=Check(haul_type=kind, wanted=wanted)), "document that is none|document whose")
    refused(caller, begin(wanted=wanted, kind=kind), "document that is none|document whose")
    assert handlers() == before
    assert not list(places.JOURNALS.iterdir()) and not list(places.WORK.iterdir())


def test_a_haul_that_begins_twice(caller: Caller, pair: tuple[Link, Link]) -> None:
    """Neither on the connection that speaks of the first, nor by a name that has been used; no log stays open."""
    before = handlers()
    caller.call(begin(), timeout=SOON)
    refused(caller, begin(OTHER), "speaks of another")
    assert [path.name for path in places.JOURNALS.iterdir()] == [f"{HAUL}.target"]
    with pytest.raises(ProtocolError, match="name of another haul"):
        Service().begin(begin().begin, "peer", EVERYTHING)
    assert handlers() == before + 1


@pytest.mark.parametrize("kind", ["docker", "pid"])
def test_steps_that_are_not_the_next_one(caller: Caller, kind: str) -> None:
    """Undone, the poise of a container that was never made would take what other hauls have."""
    others = places.RESTORE / "another"
    others.mkdir()
    document = written(WANTED if kind == "docker" else TASKS)[0]
    caller.call(begin(wanted=document, kind=kind), timeout=SOON)
    refused(caller, Request(poise=Poise()), "asks to poise what")
    options = written(OPTIONS)[0]
    refused(caller, Request(restore=Restore(options=options)), "asks to restore what")
    if kind == "docker":  # its engine makes nothing
        with pytest.raises(HaulFailed):
            caller.call(Request(prepare=Prepare()), timeout=SOON)
        refused(caller, Request(poise=Poise()), "asks to poise what")
    else:
        caller.call(Request(prepare=Prepare()), timeout=SOON)
    refused(caller, Request(prepare=Prepare()), "asks to prepare what")
    caller.call(Request(discard=Discard()), timeout=SOON)
    assert others.is_dir()


def test_a_subject_of_any_length_and_words(caller: Caller) -> None:
    refused(caller, begin(subject="x" * 1_000_000), "has 1000000 characters")
    caller.call(begin(subject="web\x1b[2J\n"), timeout=SOON)
    (path,) = places.JOURNALS.iterdir()
    assert journal.read(path).subject == "web[2J"


def test_a_log_before_there_is_a_container(target: None, tmp_path: Path) -> None:
    """It would be put where the engine keeps those of all containers."""
    record = journal.begin(journal.TARGET, haul=HAUL, haul_type="docker", subject="web", peer="p")
    with contextlib.closing(record), pytest.raises(Refused, match="before the container"):
        DockerTarget(WANTED, record, EVERYTHING).keep_history("", iter([b"x"]))


def test_last_words_in_many_pieces(target: None) -> None:
    """A byte at a time is not gathered by copying all of them for each."""
    record = journal.begin(journal.TARGET, haul=HAUL, haul_type="docker", subject="web", peer="p")
    with contextlib.closing(record):
        made = DockerTarget(WANTED, record, EVERYTHING)
        made.keep_recent(b"x" for _ in range(2_000_000))
        assert made.recent == b"x" * 2_000_000


def test_a_speed_in_too_many_pieces(pair: tuple[Link, Link], pool: ThreadPoolExecutor) -> None:
    sending = pool.submit(pair[0].send, (LENGTH.pack(1) + b"x") * (forecast.PROBE_CHUNKS + 1))
    with pytest.raises(ProtocolError, match="more than is needed"):
        forecast.pace_of(Connection(pair[1]))
    sending.result(SOON)


@pytest.mark.parametrize("name", ["../x", "/x", ".1/../x", ".1\n", ".\u0661", ".1234567", ".gz", "x"])
def test_a_log_file_of_another_name(tmp_path: Path, name: str) -> None:
    inspect = {"HostConfig": {"LogConfig": {"Type": "json-file"}}}
    (tmp_path / "containers" / ID).mkdir(parents=True)
    with pytest.raises(ProtocolError, match="name that none has"):
        docker_logs.keep(inspect, str(tmp_path), ID, name, iter([b"x"]))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_failure_is_shown_without_what_a_terminal_acts_on() -> None:
    with pytest.raises(HaulFailed) as caught:
        raise_failure(Failure(code="x\x07", status=7, sentence="No\x1b[2J\x9b.", detail="a\r\nb\u202e\x1b]0;x\x07"))
    error = caught.value
    assert (error.code, error.sentence, error.detail) == ("x", "No[2J.", "a\nb]0;x")


# In the lab: the real service and engine, and a program that has the source's keys

HOSTILE = """
import json, sys
sys.path.insert(0, "/opt/phaul")
from phaul import targets
from phaul.errors import PhaulError
from phaul.messages_pb2 import Begin, Check, Prepare, Request
from phaul.xem_rpc import Caller
wanted = {wanted!r}.encode()
reach = targets.reach({address!r}, port=12345)
caller = Caller(reach.open("control"))
for request in (
    Request(check=Check(haul_type="docker", wanted=wanted)),
    Request(begin=Begin(haul={haul!r}, haul_type="docker", subject="web", wanted=wanted)),
    Request(prepare=Prepare()),
):
    try:
        said = caller.call(request, timeout=60)
        print("taken", request.WhichOneof("what"), flush=True)
    except PhaulError as error:
        print(error.code, error.status, flush=True)
print("over", flush=True)
"""


def forged(**changes: Any) -> str:
    """A container's document that is well but for these names."""
    return json.dumps({**WANTED, "networks": [], "inspect": {**INSPECT, **changes.pop("inspect", {})}, **changes})


BARE = {"NetworkMode": "none", "Binds": None, "Mounts": None, "CpusetCpus": "", "SecurityOpt": None, "Sysctls": None}
ALONE = {"NetworkSettings": {"Networks": {}}, "HostConfig": {**INSPECT["HostConfig"], **BARE}}
# The engine's client resolves dots in a name: to remove such a volume, when it is undone, is to remove the container.
ELSEWHERE = "../containers/victim"


def leading_elsewhere(what: str, image: str) -> str:
    """Of a container that can be made here, but for the name of its volume, or of its network."""
    volume = {"Name": ELSEWHERE, "Driver": "local", "Options": None, "Labels": None}
    mount = {"Type": "volume", "Name": ELSEWHERE, "Source": "/x", "Destination": "/x", "Driver": "local"}
    here = {**WANTED["image"], "id": image, "name": "", "tags": []}
    if what == "volume":
        named = {"HostConfig": {**ALONE["HostConfig"], "Binds": [f"{ELSEWHERE}:/x"]}}
        return forged(inspect={**ALONE, **named, "Mounts": [mount]}, volumes=[volume], binds={}, image=here)
    network = {**NETWORK, "Name": ELSEWHERE}
    ends = {"NetworkSettings": {"Networks": {ELSEWHERE: END}}}
    document = json.loads(forged(inspect={**ALONE, **ends, "Mounts": []}, volumes=[], binds={}, image=here))
    return json.dumps({**document, "networks": [network]})


@pytest.mark.parametrize("what", ["volume", "network"])
def test_a_name_that_leads_to_anothers_container(served: Lab, a: Host, b: Host, what: str) -> None:
    images.load(b, "busybox")
    b.docker("create", "--name", "victim", "busybox", "true")
    document = leading_elsewhere(what, b.docker("image", "inspect", "-f", "{{.Id}}", "busybox"))
    script = HOSTILE.format(wanted=document, address=b.ip, haul=HAUL)
    with unchanged(a, b):
        said = a.run("python3", "-c", script, timeout=100).out.splitlines()
        assert b.docker("ps", "-aq", "-f", "name=victim"), said
    assert [line.split()[0] for line in said] == ["protocol", "protocol", "protocol", "over"]
