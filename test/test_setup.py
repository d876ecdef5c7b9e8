"""`p.haul-service setup`: adds what is missing, leaves the rest as it was, and disturbs no container."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hauling import (
    RUNTIME_PATH,
    configure_engine,
    containers,
    refused,
    runtime_path,
    stand_in,
    wait_for,
    without_runtime,
)
from lab import Host, Lab, workloads
from lab.service import Service

DAEMON_JSON = "/etc/docker/daemon.json"
SCRATCH = "/tmp/scratch"
# A host on which nothing has been set up yet, in a directory of the real one.
FRESH = {
    "PHAUL_ETC": f"{SCRATCH}/etc",
    "PHAUL_STATE": f"{SCRATCH}/state",
    "PHAUL_RUN": f"{SCRATCH}/run",
    "PHAUL_LOGS": f"{SCRATCH}/logs",
    "PHAUL_RUNTIME_DIR": f"{SCRATCH}/runtime",
}


# What systemd-analyze may make of the unit, in tenths; less is better.
EXPOSURE = 69


@pytest.fixture
def host(paired: Lab, clean_lab: Lab) -> Host:
    return paired.host("a")


@pytest.fixture
def scratch(host: Host) -> Path:
    path = host.path(SCRATCH)
    host.run("rm", "-rf", SCRATCH)
    path.mkdir()
    return path


def files(top: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Inode, mode, date and content of each file below."""
    found = {}
    for path in sorted(top.rglob("*")):
        seen = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(top))] = (seen.st_ino, seen.st_mode, seen.st_mtime_ns, content)
    return found


BROKEN = [b"{", b'{"a": 1,}', b"[]", b"3", b'{"runtimes": []}', b"\xff\xfe{}", b'{"runtimes": null}', b"// no comments"]


@pytest.mark.parametrize("content", BROKEN)
def test_a_daemon_json_that_is_none(host: Host, scratch: Path, content: bytes) -> None:
    (scratch / "daemon.json").write_bytes(content)
    before = files(scratch)
    done = host.run(
        "p.haul-service", "setup", check=False, env={**FRESH, "PHAUL_DAEMON_JSON": f"{SCRATCH}/daemon.json"}
    )
    said = refused(done, "daemon-json", program="p.haul-service")
    assert f"{SCRATCH}/daemon.json" in said and "nothing was changed" in said
    assert files(scratch) == before


def test_what_a_fresh_host_gets(host: Host, scratch: Path) -> None:
    with without_runtime(host):
        said = host.run("p.haul-service", "setup", env=FRESH).out
        assert "SHA256:" in said and DAEMON_JSON in said
        assert runtime_path(host) == f"{SCRATCH}/runtime/shim.py"
    modes = {path: stat.S_IMODE(seen[1]) for path, seen in files(scratch).items()}
    private = ("etc", "run", "logs", "state/journal", "state/work", "run/restore")
    assert {path: modes[path] for path in private} == dict.fromkeys(private, 0o700)
    assert modes["etc/key.pem"] == modes["etc/cert.pem"] == 0o600
    assert modes["runtime/shim.py"] == modes["runtime/hold.sh"] == 0o755


def test_the_second_run_changes_nothing(host: Host) -> None:
    tops = [host.path(place) for place in ("/etc/docker", "/etc/phaul", "/usr/local/lib/phaul", "/var/lib/phaul")]
    before = [files(top) for top in tops]
    assert before[2]
    said = host.run("p.haul-service", "setup").out
    assert "knows the runtime already" in said
    assert [files(top) for top in tops] == before


def test_the_rest_of_daemon_json_stays_and_no_container_is_disturbed(host: Host) -> None:
    workloads.counter(host, "counter")
    config = host.path(DAEMON_JSON)
    with without_runtime(host):
        others = {"another": {"path": "/usr/bin/true"}}
        document = {
            "max-concurrent-downloads": 5,
            "storage-driver": "overlay2",
            "runtimes": others,
            "labels": ["where=é"],
        }
        config.write_text(json.dumps(document))
        config.chmod(0o640)
        before, daemon = containers(host), host.path("/run/lab-dockerd.pid").read_text()
        said = host.run("p.haul-service", "setup").out
        assert "no container was disturbed" in said
        assert json.loads(config.read_text()) == {**document, "runtimes": {**others, "phaul": {"path": RUNTIME_PATH}}}
        assert stat.S_IMODE(config.stat().st_mode) == 0o640
        assert runtime_path(host) == RUNTIME_PATH and host.dockerd.running
        assert (containers(host), host.path("/run/lab-dockerd.pid").read_text()) == (before, daemon)
        seen = workloads.ticks(host, "counter")[-1][0]
        workloads.check_counter(workloads.wait_ticks(host, "counter", seen))
        config.chmod(0o644)


def test_without_an_engine_it_is_written_for_the_next_start(host: Host) -> None:
    with without_runtime(host):
        host.stop_dockerd()
        try:
            said = host.run("p.haul-service", "setup").out
        finally:
            host.start_dockerd()
        assert "when it starts" in said
        assert runtime_path(host) == RUNTIME_PATH


def test_a_runtime_of_that_name_at_another_place_is_replaced(host: Host) -> None:
    with without_runtime(host):
        configure_engine(host, {"runtimes": {"phaul": {"path": "/opt/elsewhere/shim.py"}}})
        wait_for(lambda: runtime_path(host) == "/opt/elsewhere/shim.py", "the engine to learn of it")
        host.run("p.haul-service", "setup")
        assert json.loads(host.path(DAEMON_JSON).read_text())["runtimes"] == {"phaul": {"path": RUNTIME_PATH}}
        assert runtime_path(host) == RUNTIME_PATH


def test_what_is_too_old_is_said(host: Host, scratch: Path) -> None:
    """By setup at its end, and by the service in its log when it starts."""
    with stand_in(host, "/usr/sbin/criu", "#!/bin/sh\necho Version: 3.9\n"):
        done = host.run("p.haul-service", "setup")
        assert "Not yet: criu 3.9 on " in done.out
        with Service(host) as service:
            wait_for(lambda: "criu 3.9 on this host is too old" in service.log(), "the warning")
    assert "Not yet" not in host.run("p.haul-service", "setup").out


def test_the_unit_is_what_systemd_takes(host: Host) -> None:
    unit = "/opt/phaul/phaul/p.haul-service.service"
    assert host.run("systemd-analyze", "verify", unit).err == ""
    done = host.run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", unit, check=False)
    assert done.code == 0, done.out
