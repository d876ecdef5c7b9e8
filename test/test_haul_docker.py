"""A container moves from host to host, and docker works with it there as it did here."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest
from hauling import haul, inspect, left, state, summary, wait_for
from lab import CommandFailed, Host, Lab, images
from lab.residue import residue
from lab.service import Service, pair
from lab.workloads import check_counter, counter, downtime, ticks, wait_ticks

SOURCE_IS_LEFT = "The source container count is left stopped, its restart policy put to no"


def test_a_counter_goes_on_at_the_target(served: Lab) -> None:
    a, b = served.hosts
    before = [residue(host) for host in served.hosts]
    old = counter(a, "count", "--restart", "unless-stopped")
    reached = wait_ticks(a, "count", 50)[-1][0]
    said = summary(haul(a, "docker", "count", b.ip))
    seen = wait_ticks(b, "count", reached + 100)

    check_counter(seen)
    assert ticks(a, "count") == seen[: len(ticks(a, "count"))], "the source copy has written what the target's has not"
    new = inspect(b, "count")
    assert new["State"]["Running"]
    assert new["Id"] != old
    assert new["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    gone = inspect(a, "count")
    assert (gone["State"]["Status"], gone["HostConfig"]["RestartPolicy"]["Name"]) == ("exited", "no")
    assert said.subject == new["Id"][:12]
    assert [note.startswith(SOURCE_IS_LEFT) for note in said.notes] == [True]
    assert said.downtime == pytest.approx(downtime(seen), abs=2 * served.slowness)
    assert downtime(seen) < 10 * served.slowness
    assert said.total > said.downtime
    assert said.bytes["image"] == 0
    assert said.bytes["memory"] > 1000
    assert said.bytes["rootfs"] > 100
    for host in served.hosts:
        host.docker("rm", "-f", "count")
    assert [left(host, was) for host, was in zip(served.hosts, before, strict=True)] == [[], []]


def test_docker_works_with_it_at_the_target(served: Lab) -> None:
    a, b = served.hosts
    talker = "n=0; while :; do n=$((n+1)); echo $n >>/said; echo line $n; sleep 0.05; done"
    a.docker("run", "-d", "--name", "talk", "busybox", "sh", "-c", talker)
    wait_for(lambda: "line 3" in a.docker("logs", "talk"), "a line in the log")
    haul(a, "docker", "talk", b.ip)
    last = int(b.docker("exec", "talk", "tail", "-n1", "/said"))
    wait_for(lambda: f"line {last + 5}\n" in b.docker("logs", "talk"), "new lines in the target's log")
    assert "talk" in b.docker("ps", "--format", "{{.Names}}").split()
    assert "sleep 0.05" in b.docker("top", "talk")

    b.docker("stop", "-t", "0", "talk")
    assert state(b, "talk") == "exited"
    b.docker("start", "talk")
    wait_for(lambda: b.docker("logs", "talk").count("line 1\n") == 2, "the program from its beginning")
    b.docker("restart", "-t", "0", "talk")
    wait_for(lambda: b.docker("logs", "talk").count("line 1\n") == 3, "the program from its beginning again")
    assert state(b, "talk") == "running"
    b.docker("rm", "-f", "talk")
    assert state(b, "talk") == ""


@pytest.mark.parametrize("length", [64, 12, 4])
def test_an_id_or_its_beginning_names_it(served: Lab, length: int) -> None:
    a, b = served.hosts
    identity = counter(a, "count")
    haul(a, "docker", identity[:length], b.ip)
    assert state(b, "count") == "running"


def test_another_name_at_the_target(served: Lab) -> None:
    a, b = served.hosts
    counter(a, "count")
    haul(a, "docker", "count", b.ip, "--dst-id", "other")
    assert (state(b, "other"), state(b, "count")) == ("running", "")
    assert b.docker("exec", "other", "hostname") == inspect(a, "count")["Config"]["Hostname"]


def test_remove_source(served: Lab) -> None:
    a, b = served.hosts
    before = residue(a)
    counter(a, "count", "-v", "kept:/kept", "--restart", "always")
    said = summary(haul(a, "docker", "count", b.ip, "--remove-source"))
    assert state(b, "count") == "running"
    assert inspect(b, "count")["HostConfig"]["RestartPolicy"]["Name"] == "always"
    assert "is removed" in said.notes[0]
    a.docker("volume", "rm", "kept")
    assert left(a, before) == []


def test_a_container_run_with_rm(served: Lab) -> None:
    a, b = served.hosts
    before = residue(a)
    counter(a, "count", "--rm")
    last = ticks(a, "count")[-1][0]
    haul(a, "docker", "count", b.ip)
    check_counter(wait_ticks(b, "count", last + 50))
    assert left(a, before) == []
    b.docker("kill", "count")
    wait_for(lambda: state(b, "count") == "", "the engine to remove it")


def answer(host: Host, port: int) -> str:
    """What a web server on b answers, asked from the host."""
    return host.run("busybox", "wget", "-T", "5", "-q", "-O", "-", f"http://b:{port}/index.html", check=False).out


def test_published_ports_answer_at_the_target(served: Lab) -> None:
    a, b = served.hosts
    web = "mkdir /www; echo old host >/www/index.html; exec httpd -f -p 80 -h /www"
    a.docker("run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c", web)
    wait_for(lambda: "/www/index.html" in a.docker("exec", "web", "find", "/www"), "the page")
    haul(a, "docker", "web", b.ip)
    b.docker("exec", "web", "sh", "-c", "echo new host >/www/index.html")
    for host in served.hosts:
        assert wait_for(lambda host=host: answer(host, 8080), f"port 8080 of b, asked from {host.name}") == "new host\n"
    assert b.docker("port", "web", "80") == "0.0.0.0:8080\n[::]:8080"


def test_a_network_is_made_at_the_target(served: Lab) -> None:
    a, b = served.hosts
    a.docker("network", "create", "--subnet", "10.99.7.0/24", "--label", "some=label", "own")
    counter(a, "count", "--network", "own", "--ip", "10.99.7.77", "--network-alias", "nick")
    haul(a, "docker", "count", b.ip)
    one, two = (host.engine.get("/networks/own") for host in served.hosts)
    changing = {"Id", "Created", "Containers", "Status"}
    assert {key: one[key] for key in one.keys() - changing} == {key: two[key] for key in two.keys() - changing}
    assert b.docker("exec", "count", "hostname", "-i").split() == ["10.99.7.77"]
    assert b.docker("run", "--rm", "--network", "own", "busybox", "ping", "-c1", "-W5", "nick")


def test_there_and_back(served: Lab) -> None:
    a, b = served.hosts
    pair(b, a)
    counter(a, "count", "--restart", "on-failure:3", "-v", "data:/data")
    with Service(a):
        haul(a, "docker", "count", b.ip)
        a.docker("rm", "count")
        a.docker("volume", "rm", "data")
        last = wait_ticks(b, "count", 50)[-1][0]
        haul(b, "docker", "count", a.ip)
    seen = wait_ticks(a, "count", last + 50)
    check_counter(seen)
    assert (state(a, "count"), state(b, "count")) == ("running", "exited")
    assert inspect(a, "count")["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert inspect(b, "count")["HostConfig"]["RestartPolicy"]["Name"] == "no"


def at_once(*moves: tuple[Host, str, Host]) -> None:
    """Haul each container (from, name, to) at the same time; all must do well."""
    faults: list[CommandFailed] = []

    def move(source: Host, name: str, target: Host) -> None:
        try:
            haul(source, "docker", name, target.ip)
        except CommandFailed as fault:
            faults.append(fault)

    threads = [threading.Thread(target=move, args=arguments) for arguments in moves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults


def test_two_at_the_same_time_to_one_service(served: Lab) -> None:
    a, b = served.hosts
    names = ("one", "two")
    last = {name: counter(a, name) and ticks(a, name)[-1][0] for name in names}
    at_once(*((a, name, b) for name in names))
    for name in names:
        check_counter(wait_ticks(b, name, last[name] + 50))
        assert state(a, name) == "exited"


def test_one_in_each_direction_at_the_same_time(served: Lab) -> None:
    a, b = served.hosts
    pair(b, a)
    counter(a, "there")
    counter(b, "back")
    with Service(a):
        at_once((a, "there", b), (b, "back", a))
    for host, other, name in ((b, a, "there"), (a, b, "back")):
        check_counter(wait_ticks(host, name, ticks(other, name)[-1][0] + 50))
        assert (state(host, name), state(other, name)) == ("running", "exited")


def image(host: Host, name: str) -> tuple[str, list[str]]:
    """An image's id and tags."""
    found = host.engine.get(f"/images/{name}/json")
    return found["Id"], sorted(found["RepoTags"])


def test_only_lacking_layers_are_sent(served: Lab) -> None:
    """b has busybox: of the image above it, the base layer (3 MB) stays away, 1 MiB of noise comes."""
    a, b = served.hosts
    other_name = "registry.example:5000/some/name:v1"
    images.load(a, "busybox-layered")
    a.docker("tag", "busybox-layered", other_name)
    if images.has(b, "busybox-layered"):
        images.remove(b, "busybox-layered")
    try:
        a.docker("run", "-d", "--name", "count", other_name, "ticker")
        wait_ticks(a, "count", 5)
        said = summary(haul(a, "docker", "count", b.ip, "--compress", "none"))
        assert 1 << 20 <= said.bytes["image"] < 1.5 * (1 << 20)
        assert image(b, "busybox-layered") == image(a, "busybox-layered")
        assert len(image(b, "busybox-layered")[1]) == 2
        assert inspect(b, "count")["Config"]["Image"] == other_name
        assert inspect(b, "count")["Image"] == inspect(a, "count")["Image"]
        assert b.docker("exec", "count", "sha256sum", "/opt/noise") == a.docker(
            "run", "--rm", "busybox-layered", "sha256sum", "/opt/noise"
        )
    finally:
        for host in served.hosts:
            host.docker("rmi", "--force", other_name, check=False, timeout=60)


def test_a_whole_image_is_sent_where_nothing_of_it_is(served: Lab) -> None:
    a, b = served.hosts
    images.remove_all(b)  # any may have its layer
    try:
        counter(a, "count")
        said = summary(haul(a, "docker", "count", b.ip, "--compress", "none"))
        assert said.bytes["image"] > 2 << 20
        assert image(b, "busybox") == image(a, "busybox")
        b.docker("rm", "-f", "count")
        assert b.docker("run", "--rm", "busybox", "echo", "well") == "well"
    finally:
        b.docker("rm", "-f", "count")
        images.load(b, "busybox")


class Watch:
    """Looks at a directory, again and again, for haul directories in it and what their modes are."""

    def __init__(self, host: Host, place: str) -> None:
        self.top = host.path(place)
        self.modes: set[int] = set()
        self.dumps: set[str] = set()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._done.wait(0.002):
            with contextlib.suppress(OSError):
                for directory in self.top.iterdir():
                    self._one(directory)

    def _one(self, directory: Path) -> None:
        self.modes.add(directory.stat().st_mode & 0o7777)
        pictures = directory / "images"
        names = {path.name for path in pictures.glob("*.img")}
        if names:
            self.modes.add(pictures.stat().st_mode & 0o7777)
            self.dumps |= names

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def test_images_are_private_and_wiped(served: Lab) -> None:
    a, b = served.hosts
    counter(a, "count")
    with Watch(a, "/var/lib/phaul/work") as here, Watch(b, "/var/lib/phaul/work") as there:
        haul(a, "docker", "count", b.ip)
    for watch in (here, there):
        assert watch.modes == {0o700}
        assert "inventory.img" in watch.dumps
    for host in served.hosts:
        wait_for(lambda host=host: not list(host.path("/var/lib/phaul/work").iterdir()), f"no images on {host.name}")


def test_images_are_kept_where_they_shall_be(served: Lab) -> None:
    a, b = served.hosts
    counter(a, "count")
    place = a.path("/srv/pictures")
    try:
        haul(a, "docker", "count", b.ip, "--keep-images", "--img-path", "/srv/pictures")
        (kept,) = place.iterdir()
        assert {path.stat().st_mode & 0o7777 for path in (kept, kept / "images")} == {0o700}
        assert (kept / "images" / "inventory.img").exists()
        assert list(b.path("/var/lib/phaul/work").iterdir()) == []
    finally:
        a.run("rm", "-rf", "/srv/pictures")


def test_img_path_is_used_and_wiped(served: Lab) -> None:
    a, b = served.hosts
    counter(a, "count")
    a.run("mkdir", "-m", "755", "/srv/pictures")
    try:
        with Watch(a, "/srv/pictures") as here:
            haul(a, "docker", "count", b.ip, "--img-path", "/srv/pictures")
        assert here.modes == {0o700}
        assert "inventory.img" in here.dumps
        assert list(a.path("/srv/pictures").iterdir()) == []
    finally:
        a.run("rm", "-rf", "/srv/pictures")
