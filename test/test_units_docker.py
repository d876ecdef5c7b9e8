"""What the docker driver makes of what `docker inspect` and `docker save` give, and its runtime of its calls."""

from __future__ import annotations

import copy
import io
import json
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.waiting import until

from phaul import docker_checks, docker_config, docker_image, docker_rootfs, shim, tasks_seen
from phaul.docker_api import Engine, NoSuch

ID = "f" * 64
INSPECT: dict[str, Any] = {
    "Id": ID,
    "Name": "/web",
    "State": {"Status": "running", "Running": True, "Pid": 0},
    "Config": {"Tty": False, "Labels": {}, "Hostname": "web", "Image": "nginx:1"},
    "HostConfig": {
        "NetworkMode": "ours",
        "IpcMode": "private",
        "Privileged": False,
        "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
        "Runtime": "runc",
        "Binds": ["named:/data:rw", "/srv/x:/x"],
        "PortBindings": {},
        "Memory": 1 << 20,
    },
    "Mounts": [],
    "NetworkSettings": {"Networks": {}},
    "GraphDriver": {"Name": "overlay2", "Data": {"UpperDir": "/var/lib/docker/overlay2/x/diff"}},
}


def inspect(path: str = "", value: Any = None) -> dict[str, Any]:
    """The document of a container that can be moved, with one thing in it changed."""
    document = copy.deepcopy(INSPECT)
    *owners, last = path.split(".")
    at = document
    for owner in owners:
        at = at[owner]
    if path:
        at[last] = value
    return document


def mount(kind: str, **other: Any) -> dict[str, Any]:
    return {"Type": kind, "Destination": "/d", "Source": "/s", "Driver": "local", "Name": "n", **other}


BLOCKED = [
    ("gpu", "HostConfig.DeviceRequests", [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}]),
    ("devices", "HostConfig.Devices", [{"PathOnHost": "/dev/kvm"}]),
    ("swarm", "Config.Labels", {"com.docker.swarm.service.id": "x"}),
    ("storage-driver", "GraphDriver", {"Name": "btrfs", "Data": None}),
    ("volume-driver", "Mounts", [mount("volume", Driver="nfs")]),
    ("mount-type", "Mounts", [mount("npipe")]),
    ("mount-type", "Mounts", [mount("image")]),
    ("docker-socket", "Mounts", [mount("bind", Source="/run/docker.sock")]),
    ("pid-mode", "HostConfig.PidMode", "container:x"),
]


def test_a_usual_container_is_not_blocked() -> None:
    assert docker_checks.config_blockers(inspect(), "web") == []
    assert docker_checks.state_blockers(inspect(), "web") == []


@pytest.mark.parametrize(("code", "path", "value"), BLOCKED)
def test_what_no_lab_can_make_is_blocked_too(code: str, path: str, value: Any) -> None:
    (blocker,) = docker_checks.config_blockers(inspect(path, value), "web")
    assert blocker.code == code
    assert "web" in blocker.sentence and blocker.sentence.endswith(".")


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ({"Status": "paused", "Running": True, "Paused": True}, "paused"),
        ({"Status": "restarting", "Running": True, "Restarting": True}, "restarting"),
        ({"Status": "dead", "Running": False, "Dead": True}, "dead"),
        ({"Status": "removing", "Running": False}, "not-running"),
    ],
)
def test_states(state: dict[str, Any], code: str) -> None:
    assert [blocker.code for blocker in docker_checks.state_blockers(inspect("State", state), "web")] == [code]


def test_the_create_body_is_the_sources_configuration() -> None:
    body = docker_config.create_body(inspect(), "nginx:1")
    host = body.pop("HostConfig")
    assert body == {**INSPECT["Config"], "Image": "nginx:1", "NetworkingConfig": {"EndpointsConfig": {}}}
    assert host.pop("Runtime") == "phaul"
    assert host.pop("RestartPolicy")["Name"] == "no"
    assert host == {key: INSPECT["HostConfig"][key] for key in host}
    assert len(host) == len(INSPECT["HostConfig"]) - 2


GIVEN = {"IPAddress": "172.18.0.2", "Gateway": "172.18.0.1", "EndpointID": "e", "NetworkID": "abcdef0123456789"}
ASKED = {"IPAMConfig": {"IPv4Address": "172.18.0.2", "LinkLocalIPs": ["169.254.1.1"]}, "Links": None}
END = {**GIVEN, **ASKED, "DriverOpts": {"a": "b"}, "Aliases": [ID[:12], "db", ID], "MacAddress": "02:42:00:00:00:01"}


@pytest.mark.parametrize("fixed", [(), ("ours",)])
def test_endpoints_have_what_was_asked_for_and_their_addresses_where_they_can(fixed: tuple[str, ...]) -> None:
    document = inspect("NetworkSettings.Networks", {"ours": END})
    (name, wanted), *rest = docker_config.endpoints(document, fixed=fixed).items()
    assert (name, rest) == ("ours", [])
    assert (wanted["Aliases"], wanted["DriverOpts"]) == (["db"], {"a": "b"})
    assert wanted.keys().isdisjoint(GIVEN)
    kept = ({"LinkLocalIPs": ["169.254.1.1"], "IPv4Address": "172.18.0.2"}, "02:42:00:00:00:01")
    assert (wanted["IPAMConfig"], wanted.get("MacAddress")) == (
        kept if fixed else ({"LinkLocalIPs": ["169.254.1.1"]}, "")
    )


def test_devices_are_called_as_they_were() -> None:
    document = inspect("NetworkSettings.Networks", {"ours": END, "more": GIVEN})
    wanted = docker_config.endpoints(document, names={"ours": "eth1"})
    assert wanted["ours"]["DriverOpts"] == {"a": "b", "com.docker.network.endpoint.ifname": "eth1"}
    assert wanted["more"]["DriverOpts"] is None


@pytest.mark.parametrize(
    ("mode", "main"), [("abcdef012345", "ours"), ("abcdef0123456789", "ours"), ("ours", "ours"), ("default", "default")]
)
def test_a_network_is_known_by_its_name_elsewhere(mode: str, main: str) -> None:
    document = inspect("NetworkSettings.Networks", {"ours": END})
    document["HostConfig"]["NetworkMode"] = mode
    assert docker_config.main_network(document) == main
    assert docker_config.create_body(document, "image")["HostConfig"]["NetworkMode"] == main


def test_networks_that_somebody_made() -> None:
    networks = {name: {} for name in ("bridge", "host", "none", "ours")}
    assert docker_config.user_networks(inspect("NetworkSettings.Networks", networks)) == ["ours"]
    assert docker_config.user_networks(inspect("NetworkSettings.Networks", None)) == []


def test_volumes_and_binds_by_destination() -> None:
    mounts = [
        mount("volume", Destination="/z", Name="named"),
        mount("bind", Destination="/b"),
        mount("volume", Destination="/a", Name="0" * 64),
        mount("tmpfs", Destination="/t"),
    ]
    document = inspect("Mounts", mounts)
    assert [one["Destination"] for one in docker_config.volumes(document)] == ["/a", "/z"]
    assert [one["Destination"] for one in docker_config.binds(document)] == ["/b"]
    assert [docker_config.is_anonymous(document, one) for one in docker_config.volumes(document)] == [True, False]


def test_a_volume_named_by_mount_is_not_anonymous() -> None:
    document = inspect("HostConfig.Mounts", [{"Type": "volume", "Source": "byname", "Target": "/d"}])
    assert not docker_config.is_anonymous(document, mount("volume", Name="byname"))
    assert docker_config.is_anonymous(document, mount("volume", Name="other"))


def test_published_ports() -> None:
    bindings = {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}, {"HostIp": "127.0.0.1", "HostPort": "8081"}],
        "53/udp": [{"HostIp": "::1", "HostPort": "53"}],
        "1/tcp": [{"HostPort": ""}, {"HostPort": "0"}, {"HostPort": "3000-3010"}],
        "2/tcp": None,
        "9": [{"HostPort": "9"}],
    }
    assert docker_config.published(inspect("HostConfig.PortBindings", bindings)) == [
        ("tcp", "", 8080),
        ("tcp", "127.0.0.1", 8081),
        ("udp", "::1", 53),
        ("tcp", "", 9),
    ]
    assert docker_config.published(inspect("HostConfig.PortBindings", None)) == []


def test_where_the_writable_layer_is() -> None:
    assert docker_rootfs.upper_dir(inspect()) == Path("/var/lib/docker/overlay2/x/diff")
    assert docker_rootfs.driver(inspect()) == "overlay2"
    snapshot = {"Storage": {"RootFS": {"Snapshot": {"Name": "overlayfs"}}}, "GraphDriver": None}
    assert docker_rootfs.driver({**inspect(), **snapshot}) == "overlayfs"
    assert docker_rootfs.driver({}) == "unknown"


class Images:
    """An engine that has these images: id, and diff ids of its layers."""

    def __init__(self, **layers: list[str]) -> None:
        self.documents = {
            name: {"Id": name, "RootFS": {"Layers": diff_ids}, "Created": name, "Config": {}}
            for name, diff_ids in layers.items()
        }

    def images(self) -> list[dict[str, Any]]:
        return [{"Id": name} for name in self.documents]

    def image(self, name: str) -> dict[str, Any]:
        if name not in self.documents:
            raise NoSuch("no such image")
        return self.documents[name]


def wanted(layers: list[str]) -> dict[str, Any]:
    image = {"RootFS": {"Layers": layers}, "Created": "new", "Config": {"Env": ["A=b"]}}
    return {"id": "new", "content": docker_image.content(image)}


@pytest.mark.parametrize(
    ("there", "lacking"),
    [
        ({}, ["config", "1", "2", "3"]),
        ({"old": ["1", "2"]}, ["config", "3"]),
        ({"old": ["1"], "older": ["1", "2", "x"]}, ["config", "3"]),
        ({"old": ["2", "3"]}, ["config", "1", "2", "3"]),
        ({"old": ["1", "2", "3", "4"]}, ["config"]),
        ({"new": ["1", "2", "3"]}, []),
    ],
)
def test_only_a_chain_from_the_bottom_counts_as_there(there: dict[str, list[str]], lacking: list[str]) -> None:
    engine: Any = Images(**there)
    assert docker_image.lacks(engine, wanted(["1", "2", "3"]), by_layers=True) == lacking
    if lacking:
        assert docker_image.lacks(engine, wanted(["1", "2", "3"]), by_layers=False) == ["config", "1", "2", "3"]


def saved(sizes: list[int]) -> tuple[bytes, list[str]]:
    """A `docker save` stream with layers of these sizes, and their diff ids."""
    buffer = io.BytesIO()
    layers = [f"{number:064x}" for number in range(len(sizes))]
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        directory = tarfile.TarInfo("blobs/sha256")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(directory)
        contents = {f"blobs/sha256/{layer}": os.urandom(size) for layer, size in zip(layers, sizes, strict=True)}
        for name, content in {**contents, "manifest.json": b"[]", "x" * 150: b"a long name"}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue(), layers


def read(stream: bytes) -> dict[str, tuple[bytes, int, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        files = {entry.name: (entry, tar.extractfile(entry)) for entry in tar}
        return {name: (e.type, e.mode, content.read() if content else b"") for name, (e, content) in files.items()}


@settings(max_examples=60)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 511, 512, 513, 10_240, (1 << 20) + 1]), min_size=1, max_size=4),
    kept=st.integers(0, 15),
    piece=st.sampled_from([1000, 10_240, 1 << 20]),
)
def test_layers_are_left_out_and_the_rest_is_as_it_was(sizes: list[int], kept: int, piece: int) -> None:
    stream, layers = saved(sizes)
    out = {f"sha256:{layer}" for number, layer in enumerate(layers) if not kept >> number & 1}

    def pieces() -> Iterator[bytes]:
        yield from (stream[start : start + piece] for start in range(0, len(stream), piece))

    left = b"".join(docker_image.without_layers(pieces(), out))
    names = {layer.removeprefix("sha256:") for layer in out}
    assert read(left) == {name: file for name, file in read(stream).items() if name.rpartition("/")[2] not in names}
    assert len(left) % tarfile.BLOCKSIZE == 0


ENGINE_CALL = ["--root", "/run/docker/runtime-phaul/moby", "--log", "/b/log.json", "--log-format", "json"]


def test_the_calls_of_the_engine() -> None:
    create = [*ENGINE_CALL, "create", "--bundle", "/b", "--pid-file", "/b/init.pid", ID]
    parsed = shim.parse(create)
    assert parsed is not None
    verb, word, container, options = parsed
    assert (create[verb], word, container) == ("create", "create", ID)
    assert options["--bundle"] == "/b" and options["--pid-file"] == "/b/init.pid"
    assert shim.parse([*ENGINE_CALL, "--systemd-cgroup", "start", ID])[1:3] == ("start", ID)  # type: ignore[index]
    assert shim.parse([*ENGINE_CALL, "delete", "--force", ID])[1:3] == ("delete", ID)  # type: ignore[index]
    assert shim.parse([*ENGINE_CALL, "kill", "--all", ID, "9"])[1:3] == ("kill", ID)  # type: ignore[index]
    assert shim.parse(["--log=/b/create", "start", ID])[1] == "start"  # type: ignore[index]


@pytest.mark.parametrize(
    "words", [["events", ID], ["update", "create"], ["state", ID], ["features"], ["--version"], []]
)
def test_other_calls_are_runcs(words: list[str]) -> None:
    assert shim.parse([*ENGINE_CALL, *words]) is None


@given(st.lists(st.text(max_size=12) | st.sampled_from([*shim.VALUED, "create", "start", "exec", "-"])))
def test_no_call_is_too_strange(words: list[str]) -> None:
    parsed = shim.parse(words)
    if parsed:
        verb, word, container, _ = parsed
        assert words[verb] == word in shim.VERBS and container in ["", *words[verb + 1 :]]


def test_images_for_a_runc_that_comes_late(tmp_path: Path) -> None:
    """As on a host that starts many containers at once; and one that never comes is not waited for."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images/descriptors.json").write_text("[1]")
    (tmp_path / "images/core-1.img").write_text("x")
    (tmp_path / "work").mkdir()
    gate = shim.Gate(str(tmp_path / "images"), str(tmp_path / "work"))
    ended, end = os.pipe()
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(gate.open, ended)
        until((tmp_path / "work/images/core-1.img").exists, "the images' place")
        with pytest.raises(TimeoutError):
            opening.result(0.1)  # it waits, or what it says is lost
        assert (tmp_path / "work/images/descriptors.json").read_text() == "[1]"
        opening.result(10)
        os.close(end)
        pool.submit(gate.tell, "", ended).result(10)
    os.close(ended)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle, and beside it the directory of a restore that is due."""
    (tmp_path / "pending").mkdir()
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    mounts = [{"source": str(tmp_path / name), "destination": f"/{name}"} for name in ("link", "real")]
    linux = {"sysctl": {"net.core.somaxconn": "99", "kernel.msgmax": "1"}, "namespaces": [{"type": "mount"}]}
    spec = {"mounts": mounts, "linux": linux, "process": {}}
    (tmp_path / "config.json").write_text(json.dumps(spec))
    for name in ("PHAUL_SYSCTLS", "CRIU_CONFIG_FILE"):
        monkeypatch.setenv(name, "")
    return tmp_path


@pytest.mark.parametrize("v2", [True, False])
def test_a_bundle_is_adapted(bundle: Path, monkeypatch: pytest.MonkeyPatch, v2: bool) -> None:
    monkeypatch.setattr(shim, "V2", str(bundle / ("real" if v2 else "none")))
    shim.adapt(str(bundle), str(bundle / "pending"))
    spec = json.loads((bundle / "config.json").read_text())
    assert [mount["source"] for mount in spec["mounts"]] == [str(bundle / "real")] * 2
    configuration = Path(os.environ["CRIU_CONFIG_FILE"] if v2 else spec["annotations"]["org.criu.config"])
    assert configuration.parent == bundle / "pending"
    assert configuration.read_text() == f"action-script {shim.HOLD}\n"


@pytest.mark.parametrize(
    ("policy", "boot", "running", "starts"),
    [
        ("always", "earlier", False, True),
        ("on-failure", "earlier", False, True),
        ("unless-stopped", "earlier", True, False),
        ("always", "", False, False),
        ("no", "earlier", False, False),
        ("", "earlier", False, False),
    ],
)
def test_only_what_ended_with_the_power_is_started_again(
    monkeypatch: pytest.MonkeyPatch, policy: str, boot: str, running: bool, starts: bool
) -> None:
    started: list[str] = []
    monkeypatch.setattr(Engine, "inspect", lambda *_: {"State": {"Running": running}})
    monkeypatch.setattr(Engine, "start", lambda _, container: started.append(container))
    Engine().start_after_boot("web", {"Name": policy}, boot or tasks_seen.boot_id())
    assert started == ["web"] * starts


@pytest.mark.parametrize(
    ("seen", "refused"), [("26.1.5+dfsg1", False), ("25.0.3", True), ("28.5.2", False), ("", True)]
)
def test_engines_that_are_too_old(seen: str, refused: bool) -> None:
    blockers = docker_checks.engine_blockers(seen, "this host")
    assert [blocker.code for blocker in blockers] == ["engine-too-old"] * refused
    assert all("26.1 or newer is needed" in blocker.sentence for blocker in blockers)


def test_cgroup_v1_binds_the_containers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "exists", lambda _: False)
    monkeypatch.setattr(os.path, "islink", lambda path: path.endswith("/cpuacct"))
    monkeypatch.setattr(os, "listdir", lambda _: ["memory", "cpuacct", "unified"])
    line = "external mnt[/sys/fs/cgroup/memory]:/sys/fs/cgroup/memory/"
    assert shim.cgroup_lines("/sys/fs/cgroup", "/docker/x") == [f"{line}docker/x"]
    assert shim.cgroup_lines("/sys/fs/cgroup", "system.slice:docker:x") == [f"{line}system.slice/docker-x.scope"]
