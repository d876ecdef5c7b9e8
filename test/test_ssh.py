"""Targets by address, and links by ssh: a stand-in for ssh that runs the remote command here, as a real process."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phaul import targets
from phaul.connection import Connection
from phaul.errors import LinkLost, NotTrusted, Refused, Unreachable, UsageError
from phaul.messages_pb2 import Ping, Request
from phaul.ssh import Master
from phaul.targets import SshReach, Target, TlsReach, connect_patiently, parse, reach
from phaul.xem_rpc import Caller

SOON = 30
PROJECT = Path(__file__).resolve().parent.parent

FAKE_SSH = """#!/bin/sh
echo "$*" >> $FAKE/calls
while [ "$1" != -- ]; do
    case $1 in
    -O) control=$2 ;;
    -N) master=yes ;;
    esac
    shift
done
shift 2
[ "$control" = check ] && exec test -e $FAKE/up
[ "$control" = exit ] && exec rm -f $FAKE/up
if [ -e $FAKE/refusal ]; then cat $FAKE/refusal >&2; exit 255; fi
[ "$master" ] && exec touch $FAKE/up
exec "$@"
"""

FAKE_SERVICE = """#!{python}
import os, sys, threading
sys.path.insert(0, {project!r})
from pathlib import Path
from phaul.connection import welcome
from phaul.errors import PhaulError
from phaul.keys import Identity, Peers
from phaul.listener import Listener, stdio
from phaul.messages_pb2 import Done, Reply
from phaul.xem_rpc import serve

def handle(link):
    connection, hello = welcome(link)
    if hello.purpose == "data":
        link.send_chunks(list(link.recv_chunks()))
    else:
        serve(connection, lambda request: Reply(done=Done(note=str(os.getpid()))))

if sys.argv[1] == "--unix":
    if os.path.exists(os.environ["FAKE"] + "/broken"):
        sys.exit(9)
    Path(os.environ["FAKE"], "service." + str(os.getpid())).touch()
    listener = Listener(handle, Identity.load_or_make(), Peers(), unix=True)
    threading.Event().wait()
try:
    sys.exit(stdio())
except PhaulError as error:
    print("p.haul-service: " + error.sentence, file=sys.stderr)
    sys.exit(error.status)
"""


class Far:
    """What stands in for the far host."""

    def __init__(self, where: Path) -> None:
        self.where = where

    @property
    def calls(self) -> list[str]:
        return (self.where / "calls").read_text().splitlines()

    @property
    def services(self) -> list[int]:
        """Pids of the services that were started."""
        return [int(path.suffix[1:]) for path in self.where.glob("service.*")]

    def refuse(self, words: str) -> None:
        (self.where / "refusal").write_text(words)


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    fake = tmp_path / "fake"
    fake.mkdir()
    monkeypatch.setenv("FAKE", str(fake))
    monkeypatch.setenv("PHAUL_SSH", f"/bin/sh '{executable(tmp_path / 'a fake ssh', FAKE_SSH)}'")
    for name in ("ETC", "RUN", "LOGS", "STATE"):
        monkeypatch.setenv(f"PHAUL_{name}", str(tmp_path / name.lower()))
    programs = tmp_path / "bin"
    programs.mkdir()
    executable(programs / "p.haul-service", FAKE_SERVICE.format(python=sys.executable, project=str(PROJECT)))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    host = Far(fake)
    yield host
    for pid in host.services:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def by_ssh(far: Far) -> Iterator[SshReach]:
    way = SshReach("root@far")
    yield way
    way.close()


def ping(connection: Connection) -> int:
    return int(Caller(connection).call(Request(ping=Ping()), timeout=SOON).done.note)


def test_links_share_one_login_and_one_service(far: Far, by_ssh: SshReach) -> None:
    with contextlib.closing(by_ssh.open("control")) as first, contextlib.closing(by_ssh.open("control")) as second:
        pids = {ping(first), ping(second)}
        assert first.peer == "root@far"
    assert pids == set(far.services)
    assert [call.split()[0] for call in far.calls] == ["-O", "-f", "-T", "-O", "-T"]
    assert all("ServerAliveInterval=5 -o ServerAliveCountMax=3" in call for call in far.calls)
    assert far.calls[2].endswith("-- root@far p.haul-service --stdio")


def test_many_at_once_start_one_service(far: Far, by_ssh: SshReach) -> None:
    with ThreadPoolExecutor(6) as pool:
        connections = list(pool.map(lambda _: by_ssh.open("control"), range(6)))
    pids = {ping(connection) for connection in connections}
    for connection in connections:
        connection.close()
    assert pids == set(far.services) and len(pids) == 1


def test_the_service_outlives_who_asked_for_it(far: Far, by_ssh: SshReach) -> None:
    with contextlib.closing(by_ssh.open("control")) as connection:
        pid = ping(connection)
    assert os.getsid(pid) == pid
    with contextlib.closing(by_ssh.open("control")) as connection:
        assert ping(connection) == pid


def test_much_goes_through(by_ssh: SshReach) -> None:
    sent = [os.urandom(1 << 20) for _ in range(4)]
    with contextlib.closing(by_ssh.open("data")) as connection:
        connection.link.send_chunks(sent)
        assert b"".join(connection.link.recv_chunks(timeout=SOON)) == b"".join(sent)


def test_closing_leaves_no_process(by_ssh: SshReach) -> None:
    connection = by_ssh.open("control")
    process = connection.link._process  # type: ignore[attr-defined]
    connection.close()
    assert process.returncode is not None


def test_an_ssh_that_is_killed_is_link_lost(by_ssh: SshReach) -> None:
    with contextlib.closing(by_ssh.open("control")) as connection:
        connection.link._process.kill()  # type: ignore[attr-defined]
        with pytest.raises(LinkLost, match="connection to root@far was lost"):
            ping(connection)


def test_after_the_master_died_the_next_link_logs_in_again(far: Far, by_ssh: SshReach) -> None:
    by_ssh.open("control").close()
    (far.where / "up").unlink()
    with contextlib.closing(by_ssh.open("control")) as connection:
        assert ping(connection) in far.services
    assert [call.split()[0] for call in far.calls].count("-f") == 2


def test_a_login_that_fails_says_what_ssh_said(far: Far, by_ssh: SshReach) -> None:
    far.refuse("Warning: something\nroot@far: Permission denied (publickey).\n")
    with pytest.raises(
        Unreachable, match=r"ssh to root@far failed: root@far: Permission denied \(publickey\)\."
    ) as caught:
        by_ssh.open("control")
    assert caught.value.code == "ssh-failed"
    assert "Warning: something" in caught.value.detail


def test_a_far_host_without_p_haul(tmp_path: Path, by_ssh: SshReach) -> None:
    (tmp_path / "bin" / "p.haul-service").unlink()
    with pytest.raises(Unreachable, match=r"p\.haul-service is not installed on root@far") as caught:
        by_ssh.open("control")
    assert caught.value.code == "service-not-installed"


def test_a_service_that_does_not_start(far: Far, by_ssh: SshReach) -> None:
    (far.where / "broken").touch()
    with pytest.raises(Unreachable, match=r"p\.haul-service: .* ended with status 9 when it was started: see .*log"):
        by_ssh.open("control")


def test_an_ssh_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHAUL_SSH", "/no/such/ssh")
    master = Master("root@far")
    with contextlib.closing(master), pytest.raises(Refused, match="/no/such/ssh"):
        master.open()


def test_the_masters_directory_is_private_and_goes(far: Far) -> None:
    master = Master("root@far")
    directory = master._directory
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    master.open().close()
    master.close()
    assert not directory.exists()
    assert far.calls[-1].startswith("-O exit")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("10.0.0.2", Target("10.0.0.2")),
        ("Host.Name", Target("host.name")),
        ("[::1]", Target("::1")),
        ("2001:DB8::2", Target("2001:db8::2")),
        ("root@host", Target("host", "root")),
        ("root@[::1]", Target("::1", "root")),
    ],
)
def test_addresses(text: str, target: Target) -> None:
    assert parse(text) == target
    assert parse(str(target)) == target
    assert parse(text).by_ssh is ("@" in text)


@pytest.mark.parametrize(
    "text", ["", "@host", "-oProxyCommand=x", "root@-oX", "a b", "host/x", "host:22", "-x@host", "[", "a;b"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_the_way_to_an_address(far: Far) -> None:
    assert isinstance(reach("10.0.0.2"), TlsReach)
    way = reach("root@far")
    with contextlib.closing(way):
        assert isinstance(way, SshReach)
        assert way.name == "root@far"


class Flaky:
    """A way that fails a number of times."""

    name = "flaky"

    def __init__(self, failures: list[Exception], connection: Connection) -> None:
        self.failures, self.connection, self.asked = failures, connection, 0

    def open(self, *_: object, **__: object) -> Connection:
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return self.connection

    def close(self) -> None:
        pass


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "_PAUSE_S", 0.01)


@pytest.mark.usefixtures("quick")
def test_patience_outlasts_what_passes() -> None:
    connection = Connection.__new__(Connection)
    way = Flaky([Unreachable("down"), LinkLost("lost"), Unreachable("down")], connection)
    assert connect_patiently(way, deadline_s=SOON) is connection
    assert way.asked == 4


@pytest.mark.usefixtures("quick")
def test_patience_ends_at_its_deadline() -> None:
    way = Flaky([Unreachable("down") for _ in range(1000)], Connection.__new__(Connection))
    with pytest.raises(Unreachable, match="down"):
        connect_patiently(way, deadline_s=0.1)
    assert 1 < way.asked < 1000


@pytest.mark.parametrize("lasting", [NotTrusted("no"), Unreachable("no", code="service-not-installed")])
def test_patience_is_not_spent_on_what_will_not_pass(lasting: Exception) -> None:
    way = Flaky([lasting], Connection.__new__(Connection))
    with pytest.raises(type(lasting)):
        connect_patiently(way, deadline_s=SOON)
    assert way.asked == 1
