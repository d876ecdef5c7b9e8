"""A paired source that lies: what it may not bring is refused before anything is touched, or taken back whole."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
from hauling import containers, directory, haul, inspect, left, python, refused, state, unchanged
from lab import Host, Lab, images, service
from lab.residue import residue
from lab.service import Service
from lab.workloads import check_counter, counter, ticks, wait_ticks
from test_bad_target import pids_of

Json = dict[str, Any]
SLEEP = ("busybox", "sleep", "100000")
HOST = ["inspect", "HostConfig"]
VICTIM = "victim"


@pytest.fixture
def lab_pair(paired: Lab, clean_lab: Lab) -> tuple[Host, Host]:
    for host in clean_lab.hosts:
        images.load(host, "busybox")
    a, b = clean_lab.hosts
    a.docker("network", "create", "--subnet", "10.99.7.0/24", "own")
    a.docker("run", "-d", "--name", "web", "-v", "data:/data", "--network", "own", *SLEEP)
    return a, b


@pytest.fixture
def a(lab_pair: tuple[Host, Host]) -> Host:
    return lab_pair[0]


@pytest.fixture
def b(lab_pair: tuple[Host, Host]) -> Iterator[Host]:
    with Service(lab_pair[1], strict=True):
        yield lab_pair[1]


def forged(a: Host, b: Host, cases: Mapping[str, Json], *, name: str = "web", address: str = "") -> dict[str, Json]:
    """What becomes of each case: see forger.py."""
    words = ("python3", "/opt/phaul/test/forger.py", address or b.ip, name)
    found: dict[str, Json] = json.loads(a.run(*words, input=json.dumps(cases), timeout=300).out)
    return found


def asks(*edits: tuple[Sequence[str | int], Any]) -> Json:
    return {"edits": [[list(where), value] for where, value in edits]}


def steps(*names: str, **more: Any) -> Json:
    return {"steps": names, **more}


# Each is refused at `begin`, by the same code as a check finds.
DATA = {"Type": "volume", "Name": "data", "Source": "/x", "Destination": "/data", "Driver": "local"}
PROCESS = ((["pids"], [1]), (["threads"], [1]), (["files"], []), (["shell_job"], False), (["root"], ""), (["rpid"], ""))
FORBIDDEN = {
    "privileged": asks(([*HOST, "Privileged"], True)),
    "in another spelling": asks(([*HOST, "privileged"], True)),
    "capabilities": asks(([*HOST, "CapAdd"], ["SYS_ADMIN"])),
    "the host's network": asks(([*HOST, "NetworkMode"], "host")),
    "the host's processes": asks(([*HOST, "PidMode"], "host")),
    "the host's IPC": asks(([*HOST, "IpcMode"], "host")),
    "the host's name": asks(([*HOST, "UTSMode"], "host")),
    "the host's users": asks(([*HOST, "UsernsMode"], "host")),
    "another's network": asks(([*HOST, "NetworkMode"], f"container:{VICTIM}")),
    "another's processes": asks(([*HOST, "PidMode"], f"container:{VICTIM}")),
    "another's volumes": asks(([*HOST, "VolumesFrom"], [VICTIM])),
    "a device": asks(([*HOST, "Devices"], [{"PathOnHost": "/dev/zero", "PathInContainer": "/dev/x"}])),
    "rules for devices": asks(([*HOST, "DeviceCgroupRules"], ["a *:* rwm"])),
    "no seccomp": asks(([*HOST, "SecurityOpt"], ["seccomp=unconfined"])),
    "no masks": asks(([*HOST, "MaskedPaths"], [])),
    "no read-only paths": asks(([*HOST, "ReadonlyPaths"], [])),
    "the host's settings": asks(([*HOST, "Sysctls"], {"kernel.core_pattern": "|/data/x"})),
    "a cgroup": asks(([*HOST, "CgroupParent"], "/elsewhere")),
    "to outlive others": asks(([*HOST, "OomScoreAdj"], -500)),
    "a configuration of CRIU": asks(([*HOST, "Annotations"], {"org.criu.config": "/x"})),
    "what nobody knows": asks(([*HOST, "Surprise"], True)),
    "a bind mount": asks(([*HOST, "Binds"], ["/etc:/x", "data:/data"])),
    "a bind mount to be filled": asks(
        (["inspect", "Mounts"], [DATA, {"Type": "bind", "Source": "/etc", "Destination": "/x"}]),
        (["binds"], {"/etc": "directory"}),
        (["copy_binds"], True),
    ),
    "a volume that is a bind mount": asks((["volumes", 0, "Options"], {"type": "none", "o": "bind", "device": "/etc"})),
    "a volume of another driver": asks((["volumes", 0, "Driver"], "theirs")),
    "a link of the host": asks(
        (["networks", 0, "Driver"], "macvlan"), (["networks", 0, "Options"], {"parent": "eth0"})
    ),
    "a bridge of the host": asks((["networks", 0, "Options"], {"com.docker.network.bridge.name": "lan0"})),
    "others' addresses": asks((["networks", 0, "IPAM", "Config"], [{"Subnet": "8.8.8.0/24"}])),
    "a bare process": {"type": "pid", **asks(*PROCESS)},
}
# Names that would lead elsewhere: no source of ours has them.
ODD = {
    "container": asks((["name"], f"../containers/{VICTIM}")),
    "volume": asks(
        (["volumes", 0, "Name"], f"../containers/{VICTIM}"), ([*HOST, "Binds"], [f"../containers/{VICTIM}:/data"])
    ),
    "network": asks((["networks", 0, "Name"], f"../containers/{VICTIM}")),
    "tag": asks((["image", "tags"], [f"../containers/{VICTIM}"])),
    "image": asks((["image", "id"], f"../containers/{VICTIM}")),
    "setting": asks(([*HOST, "Sysctls"], {"net.core.somaxconn": "1\nkernel/core_pattern=x"})),
    "nothing": asks((["inspect"], None)),
    "another's volume": asks(([*HOST, "Binds"], ["precious:/data"])),
    "a list": asks((["inspect"], [])),
}


def test_what_is_true_is_welcome(a: Host, b: Host) -> None:
    """Shows that the tests below see refusals of what they change."""
    true = steps("begin", "prepare", "history", "poise")
    assert forged(a, b, {"true": true})["true"] == {"found": [], "step": ""}


def test_what_may_not_be_is_refused_untouched(a: Host, b: Host) -> None:
    b.docker("run", "-d", "--name", VICTIM, "-v", "precious:/x", *SLEEP)
    with unchanged(b):
        seen = forged(a, b, FORBIDDEN)
    refusals = {case: (one.get("step"), one.get("code"), one.get("status"), one["found"]) for case, one in seen.items()}
    assert refusals == dict.fromkeys(FORBIDDEN, ("begin", "not-allowed", 3, ["not-allowed"]))
    assert all("p.haul-service" in one["sentence"] for one in seen.values()), seen


def test_names_that_lead_elsewhere_are_none(a: Host, b: Host) -> None:
    b.docker("create", "--name", VICTIM, *SLEEP)
    with unchanged(b):
        seen = forged(a, b, ODD)
    assert {case: (one.get("step"), one.get("code")) for case, one in seen.items()} == dict.fromkeys(
        ODD, ("begin", "protocol")
    )


def rolled_back(b: Host) -> AbstractContextManager[None]:
    """What the block leaves on b is nothing but the record of hauls."""
    return Remaining(b)


class Remaining:
    def __init__(self, host: Host) -> None:
        self.host = host

    def __enter__(self) -> None:
        self.before, self.seen = residue(self.host), containers(self.host)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            assert left(self.host, self.before) == []
            assert containers(self.host) == self.seen


def test_volumes_of_others_are_left_alone(a: Host, b: Host) -> None:
    """Whoever does not ask for a check finds them taken as well."""
    b.docker("run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo precious >/data/file")
    with rolled_back(b):
        seen = forged(a, b, {"full": asks()})["full"]
    assert (seen["step"], seen["code"], seen["found"]) == ("prepare", "volume-exists", ["volume-exists"])
    assert b.docker("run", "--rm", "-v", "data:/data", "busybox", "cat", "/data/file") == "precious"
    b.docker("volume", "rm", "data")
    b.docker("run", "-d", "--name", VICTIM, "-v", "data:/x", *SLEEP)
    with rolled_back(b):
        seen = forged(a, b, {"used": asks()})["used"]
    assert (seen["step"], seen["code"]) == ("prepare", "volume-exists") and VICTIM in seen["sentence"]


def test_nothing_is_filled_but_what_the_container_has(a: Host, b: Host) -> None:
    mounts = [{"Type": "volume", "Name": "data", "Source": "/x", "Destination": "/etc", "Driver": "local"}]
    with rolled_back(b):
        seen = forged(a, b, {"elsewhere": asks((["inspect", "Mounts"], mounts))})["elsewhere"]
    assert (seen["step"], seen["code"]) == ("prepare", "protocol") and "/etc" in seen["sentence"]


def saved(names: Mapping[str, Any], **files: bytes) -> str:
    """A stream as of `docker save`, with these files."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for name, data in {**{key: json.dumps(value).encode() for key, value in names.items()}, **files}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return whole.getvalue().hex()


MANIFEST = {"Config": "blobs/sha256/" + "ab" * 32, "Layers": []}
STREAMS = {
    "a tag": saved({"manifest.json": [{**MANIFEST, "RepoTags": ["busybox:latest"]}]}),
    "a tag in another spelling": saved({"manifest.json": [{**MANIFEST, "repotags": ["busybox:latest"]}]}),
    "a name of containerd's": saved(
        {
            "index.json": {
                "manifests": [{"annotations": {"io.containerd.image.name": "docker.io/library/busybox:latest"}}]
            }
        }
    ),
    "a name of OCI's": saved(
        {"index.json": {"manifests": [{"annotations": {"org.opencontainers.image.ref.name": "latest"}}]}}
    ),
    "repositories": saved({"repositories": {"busybox": {"latest": "ab" * 32}}}),
    "a path": saved({"../../etc/x": []}),
    "no image": b"GET / HTTP/1.1".ljust(1024).hex(),
}


def test_an_image_takes_no_name_from_another(a: Host, b: Host) -> None:
    mine = b.engine.get("/images/busybox:latest/json")["Id"]
    with rolled_back(b):
        seen = forged(a, b, {case: steps("begin", "image", image=stream) for case, stream in STREAMS.items()})
    assert {case: (one["step"], one.get("code")) for case, one in seen.items()} == dict.fromkeys(
        STREAMS, ("image", "protocol")
    )
    assert b.engine.get("/images/busybox:latest/json")["Id"] == mine


# Each would act on what is not there yet: on the directory of all restores, say.
DISORDER = {
    "poise at once": steps("begin", "poise"),
    "restore at once": steps("begin", "restore"),
    "restore unpoised": steps("begin", "prepare", "restore"),
    "prepare twice": steps("begin", "prepare", "prepare"),
    "a log of nothing": steps("begin", "history"),
    "a log of what starts": steps("begin", "prepare", "poise", "history"),
    "an image too late": steps("begin", "prepare", "image"),
}


def test_steps_come_in_their_order(a: Host, b: Host) -> None:
    with rolled_back(b):
        seen = forged(a, b, DISORDER)
    assert {case: (one["step"], one.get("code")) for case, one in seen.items()} == {
        case: (wish["steps"][-1], "protocol") for case, wish in DISORDER.items()
    }


def test_a_directory_that_is_allowed_and_no_other(a: Host, lab_pair: tuple[Host, Host]) -> None:
    b = lab_pair[1]

    def bound(path: str, **more: Any) -> Json:
        mounts = [DATA, {"Type": "bind", "Source": path, "Destination": "/x"}]
        edits = [([*HOST, "Binds"], [f"{path}:/x", "data:/data"]), (["binds"], {path: "directory"})]
        edits += [([key], value) for key, value in more.items()]
        return asks(*edits, (["inspect", "Mounts"], mounts))

    with directory(b, "/srv/ok"), Service(b, "--allow-bind", "/srv/ok", strict=True):
        b.run("sh", "-c", "mkdir /srv/ok/full; echo precious >/srv/ok/full/file; ln -s /etc /srv/ok/out")
        cases = {
            "allowed": bound("/srv/ok/full"),
            "to be made": bound("/srv/ok/new", copy_binds=True),
            "would be overwritten": bound("/srv/ok/full", copy_binds=True),
            "unnamed": bound("/srv/ok/full", copy_binds=True, binds={}),
            "a symlink out of it": bound("/srv/ok/out"),
            "beneath one": bound("/srv/ok/out/x", copy_binds=True),
            "beside it": bound("/srv/okay"),
            "settings of rsync": bound("/srv/ok/x\npre-xfer exec = touch /srv/ok/ran", copy_binds=True),
        }
        with rolled_back(b):
            seen = forged(a, b, cases)
        assert {case: one.get("code", "") for case, one in seen.items()} == {
            "allowed": "",
            "to be made": "",
            "would be overwritten": "bind-exists",
            "unnamed": "protocol",
            "a symlink out of it": "not-allowed",
            "beneath one": "not-allowed",
            "beside it": "not-allowed",
            "settings of rsync": "protocol",
        }
        assert "--allow-bind DIR" in seen["beside it"]["sentence"]
        assert b.path("/srv/ok/full/file").read_text() == "precious\n"
        assert not b.path("/srv/ok/ran").exists() and not b.path("/srv/ok/new").exists()


# What a container was run with, and how the source denies it.
LIES = {
    "capability": ("--cap-add SYS_ADMIN", {"CapAdd": None}, "has the capability SYS_ADMIN"),
    "seccomp": ("--security-opt seccomp=unconfined", {"SecurityOpt": None}, "runs without seccomp"),
    "masks": ("--security-opt systempaths=unconfined", {"MaskedPaths": None, "ReadonlyPaths": None}, "/proc/"),
    "names": ("--uts host", {"UTSMode": ""}, "is in the host's uts namespace"),
    "score": ("--oom-score-adj -300", {"OomScoreAdj": 0}, "has the oom_score_adj -300"),
    "privileges": ("", {"SecurityOpt": ["no-new-privileges"]}, "may gain privileges"),
    "mounts": ("--tmpfs /scratch", {"Tmpfs": None}, "has a file system of type tmpfs on /scratch"),
}
LYING = """
import sys
sys.path.insert(0, "/opt/phaul")
from phaul import args_parser, docker_source
true = docker_source.DockerSource.wanted
def wanted(self):
    told = true(self)
    host = {{**told["inspect"]["HostConfig"], **{denied!r}}}
    return {{**told, "inspect": {{**told["inspect"], "HostConfig": host}}}}
docker_source.DockerSource.wanted = wanted
sys.exit(args_parser.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("lie", LIES)
def test_restored_tasks_may_do_no_more_than_was_said(paired: Lab, a: Host, b: Host, lie: str) -> None:
    """Images say what the tasks are: the real ones, of a container that is said to be another."""
    options, denied, words = LIES[lie]
    if "-300" in options and "non-root-dumps" not in paired.capabilities:
        pytest.skip("no CAP_SYS_RESOURCE on this machine: no container gets a negative score of the OOM killer")
    counter(a, "liar", *options.split())
    with rolled_back(b):
        program = LYING.format(denied=denied)
        done = a.run("python3", "-c", program, "docker", "liar", b.ip, "--tcp", "refuse", check=False, timeout=120)
    said = refused(done, "not-confined", 7, details=1)
    assert words in said and "liar runs on here" in said, said
    check_counter(wait_ticks(a, "liar", ticks(a, "liar")[-1][0] + 20))


def test_a_container_as_docker_makes_it_moves(a: Host, b: Host) -> None:
    """With all that is allowed: the strictest service takes it, and finds nothing to mind."""
    options = "-v kept:/kept -v /anonymous --network own --ip 10.99.7.9 -p 18080:80 --cap-drop ALL --init --read-only"
    more = "--tmpfs /tmp --memory 64m --pids-limit 50 --ulimit nofile=900:950 --sysctl net.core.somaxconn=99"
    a.docker("rm", "-f", "web")
    linked = "--entrypoint sh busybox -c"
    a.docker("run", "-d", "--name", "web", *options.split(), *more.split(), *linked.split(), "exec sleep 100000")
    haul(a, "docker", "web", b.ip)
    assert (state(a, "web"), state(b, "web")) == ("exited", "running")


@pytest.mark.parametrize("way", ["check", "haul"])
def test_it_says_what_would_allow_it(a: Host, b: Host, way: str) -> None:
    a.docker("run", "-d", "--name", "bound", "-v", "/usr:/srv:ro", "--cap-add", "NET_ADMIN", "--uts", "host", *SLEEP)
    with unchanged(a, b):
        words = ("check", "docker") if way == "check" else ("docker",)
        done = haul(a, *words, "bound", b.ip, check=False)
    assert done.code == 3
    said = done.out + done.err
    for option in ("--allow-privileged", "--allow-bind DIR"):
        assert option in said, said
    for asked in ("--cap-add CAP_NET_ADMIN", "--uts host", "'/usr'"):
        assert asked in said, said


def test_a_bare_process_needs_everything(a: Host, b: Host) -> None:
    with python(a, "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(100000)"):
        pid = next(pid for pid in pids_of(a, "time.sleep(100000)"))
        with unchanged(a, b):
            said = refused(haul(a, "pid", pid, b.ip, check=False), "not-allowed")
    assert re.search(r"start p.haul-service there with --allow-privileged", said)


def test_by_ssh_root_may_bring_what_it_likes(a: Host, b: Host) -> None:
    """Also where a service for others runs."""
    a.docker("run", "-d", "--name", "own", "--cap-add", "SYS_ADMIN", "--uts", "host", *SLEEP)
    service.allow_ssh(a, b)
    try:
        haul(a, "docker", "own", f"root@{b.ip}")
    finally:
        b.run("sh", "-c", "kill $(cat /run/sshd.pid)")
    assert state(b, "own") == "running" and inspect(b, "own")["HostConfig"]["UTSMode"] == "host"
