"""A running container moves from one Docker host to another and does not lose count."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from itertools import pairwise

from . import images, service, workloads
from .ending import end_on
from .errors import LabError
from .host import Host
from .instance import Lab

NAME = "counter"
HAUL_TIMEOUT_S = 120


def main() -> int:
    """Show it; 0 if all went well."""
    end_on(signal.SIGTERM)
    started = time.monotonic()
    try:
        say("Two Docker hosts, a and b, each in namespaces of its own")
        with Lab.up(f"demo-{os.getpid()}") as lab:
            show(lab.host("a"), lab.host("b"))
    except (LabError, AssertionError) as error:
        print(f"\nFAILED: {error}", *getattr(error, "__notes__", ()), sep="\n")
        return 1
    say(f"Done in {time.monotonic() - started:.0f} s; the hosts are gone")
    return 0


def show(source: Host, target: Host) -> None:
    for host in (source, target):
        images.load(host, "busybox")
        print(f"   {host.name}: {host.ip}, Docker {host.engine.get('/version')['Version']}")
    say("Once per host: set up, and make them known to each other")
    service.pair(source, target)
    say("On b the service waits")
    with service.Service(target, strict=True):
        say("On a a container writes a numbered line with the time every 10 ms")
        workloads.counter(source, NAME)
        before = workloads.wait_ticks(source, NAME, 100)
        print(f"   its line at this moment:   {line(before[-1])}")
        say("Move it")
        haul(source, target)
        after = workloads.wait_ticks(target, NAME, before[-1][0] + 100)
        verdict(source, target, after)


def haul(source: Host, target: Host) -> None:
    command = ["p.haul", "docker", NAME, target.ip]
    print(f"   a# {shlex.join(command)}", flush=True)
    # The terminal is p.haul's own, so that it shows what it shows to anybody.
    process = source.popen(*command, env={"TERM": os.environ.get("TERM", "dumb")})
    try:
        code = process.wait(HAUL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise LabError(f"p.haul took longer than {HAUL_TIMEOUT_S} s.") from None
    finally:
        process.kill()
        process.wait()
    if code:
        raise LabError(f"p.haul ended with {code}.")


def verdict(source: Host, target: Host, seen: workloads.Ticks) -> None:
    last, first = max(pairwise(seen), key=lambda pair: pair[1][1] - pair[0][1])
    print(f"   its last line on a:        {line(last)}")
    print(f"   its first line on b:       {line(first)}")
    for host in (source, target):
        say(f"{host.name}# docker ps -a")
        print(host.docker("ps", "-a", "--format", "table {{.Names}}\t{{.Image}}\t{{.Status}}"))
    say("Check")
    running = [host.name for host in (source, target) if NAME in host.docker("ps", "--format", "{{.Names}}").split()]
    assert running == ["b"], f"the container runs on {running or 'no host'}"
    workloads.check_counter(seen)
    print(f"   {len(seen)} lines: no number missing, none twice")
    print(f"   downtime as the container saw it: {workloads.downtime(seen) * 1000:.0f} ms")


def line(tick: tuple[int, float]) -> str:
    number, when = tick
    return f"{number:>6}  {time.strftime('%H:%M:%S', time.localtime(when))}.{int(when % 1 * 1000):03}"


def say(what: str) -> None:
    print(f"\n== {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
