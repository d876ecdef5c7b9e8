"""What a container has said is in the engine's log at the target, all of it, once and in order."""

from __future__ import annotations

import json
import re

import pytest
from hauling import haul, wait_for
from lab import Host, Lab, images

SPEAK = """
n=0
while :; do
    n=$((n + 1))
    echo "out $n with some words, so that files fill up"
    [ $((n % 5)) = 0 ] && echo "err $n" >&2
    /bin/sleep 0.005
done
"""
LOG_DIR = "/var/lib/docker/containers"


def speak(host: Host, *docker_args: str, name: str = "talker") -> None:
    images.load(host, "busybox")
    host.docker("run", "-d", "--name", name, *docker_args, "busybox", "sh", "-c", SPEAK)
    wait_for(lambda: said(host, "out", name)[-1:] > [40], "forty lines")


def said(host: Host, word: str, name: str = "talker", *options: str) -> list[int]:
    """The numbers behind the word, in the order in which `docker logs` gives them."""
    done = host.run("docker", "logs", *options, name)
    return [int(number) for number in re.findall(rf"^{word} (\d+)", done.out if word == "out" else done.err, re.M)]


@pytest.mark.parametrize("mode", ["auto", "postcopy"])
@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_all_that_it_has_said(served: Lab, driver: str, mode: str) -> None:
    a, b = served.hosts
    speak(a, "--log-driver", driver)
    haul(a, "docker", "talker", b.ip, "--mode", mode)
    last = said(a, "out")[-1]
    wait_for(lambda: said(b, "out")[-1] > last + 40, "more lines at the target")
    out, err = said(b, "out"), said(b, "err")
    assert out == list(range(1, len(out) + 1))
    assert err == [5 * number for number in range(1, len(err) + 1)]
    assert said(b, "out", "talker", "--tail", "20")[-1] > last
    moments = re.findall(r"^(\S+) out", b.docker("logs", "--timestamps", "talker"), re.M)
    assert (
        moments == sorted(moments)
        and moments[0] == re.findall(r"^(\S+) out", a.docker("logs", "--timestamps", "talker"), re.M)[0]
    )


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_it_is_followed_at_the_target(served: Lab, driver: str) -> None:
    a, b = served.hosts
    speak(a, "--log-driver", driver)
    haul(a, "docker", "talker", b.ip)
    first = said(a, "out")[-1]
    follower = b.run("timeout", "5", "docker", "logs", "-f", "talker", check=False)
    numbers = [int(number) for number in re.findall(r"^out (\d+)", follower.out, re.M)]
    assert numbers == list(range(1, len(numbers) + 1)) and numbers[-1] > first + 100


@pytest.mark.parametrize("packed", ["true", "false"])
@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_rotated_files_too(served: Lab, driver: str, packed: str) -> None:
    a, b = served.hosts
    options = ("max-size=4k", "max-file=200", f"compress={packed}")
    speak(a, "--log-driver", driver, *(word for option in options for word in ("--log-opt", option)))
    wait_for(lambda: said(a, "out")[-1] > 200, "some rotations")
    haul(a, "docker", "talker", b.ip)
    last = said(a, "out")[-1]
    wait_for(lambda: said(b, "out")[-1] > last + 100, "more lines at the target")
    out = said(b, "out")
    assert out == list(range(1, len(out) + 1))


def test_files_are_as_the_engine_makes_them(served: Lab) -> None:
    a, b = served.hosts
    speak(a)
    haul(a, "docker", "talker", b.ip)
    seen = []
    for host in (a, b):
        (path,) = host.path(LOG_DIR).glob("*/*-json.log")
        assert {line["stream"] for line in map(json.loads, path.read_text().splitlines()[:40])} == {"stdout", "stderr"}
        info = path.stat()
        seen.append((info.st_mode, info.st_uid, info.st_gid))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("driver", ["none", "syslog"])
def test_other_drivers_have_no_files(served: Lab, driver: str) -> None:
    a, b = served.hosts
    options = ("--log-opt", "syslog-address=udp://127.0.0.1:5140") if driver == "syslog" else ()
    a.docker("run", "-d", "--name", "talker", "--log-driver", driver, *options, "busybox", "sh", "-c", SPEAK)
    haul(a, "docker", "talker", b.ip)
    b.docker("exec", "talker", "true")
