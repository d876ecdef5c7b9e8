"""Runs one of P.Haul's programs and writes down in which order its journal's records come to the disk, and its acts.

    order_trace.py FILE -- PROGRAM ARG...

FILE gets a line of JSON for each: {"record": "push.pause"} when fsync(2) has returned, {"act": "Engine.pause"}
when that is about to be called. The other half of the module says which record each act needs.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import at_point
from journal_kinds import kind

PLACE = "/tmp/order"
# Engine's methods that change nothing.
READERS = {
    "info",
    "ping",
    "version",
    "inspect",
    "containers",
    "image",
    "images",
    "history",
    "save",
    "volume",
    "networks",
}
READERS |= {"network", "wait", "exec"}
# Nobody undoes the loading of an image: its layers are there for the next haul.
FREE = {"Engine.load"}
# The record that must be on disk before each act, which the act is an instance of.
NEEDS = {
    "source": {
        "work directory": "push.work",
        "Dump": "push.dump",
        "Engine.set_restart_policy": "push.restart-policy",
        "Engine.pause": "push.pause",
        "asks for the release": "state.committed",
        "ends its copy": "state.committed",
    },
    "target": {
        "work directory": "push.work",
        "starts the pager": "push.pages",
        "Engine.make_network": "push.network",
        "Engine.make_volume": "push.volume",
        "Engine.create": "push.container",
        "announces the restore": "push.restore",
        "Engine.rename": "push.restore",
        "Engine.start": "push.restore",
        "says that it holds it": "state.held",
        "has it taken for started": "push.restore",
        "lets it run": "state.running",
        "says that it runs": "state.running",
        "Engine.set_restart_policy": "state.running",
    },
}
# Not every haul does them.
RARE = {"Engine.unpause": "push.pause", "Engine.tag": "push.tag"}

Event = dict[str, str]


def command(program: str) -> tuple[str, ...]:
    """For a host of the lab."""
    return ("/usr/bin/python3", "/opt/phaul/test/order_trace.py", f"{PLACE}-{program}", "--", program)


def events(path: Path) -> list[Event]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def violations(found: list[Event], side: str) -> list[str]:
    """The acts whose record was not on disk, and those that no record announces."""
    needs, on_disk, wrong = {**RARE, **NEEDS[side]}, set(), []
    for event in found:
        act = event.get("act", "")
        if not act:
            on_disk.add(event["record"])
        elif act not in FREE and needs.get(act) not in on_disk:
            wrong.append(f"{act}, without {needs.get(act, 'any record that announces it')}")
    return wrong


def main(argv: list[str]) -> None:
    file, _, *program = argv
    sys.path[0] = str(at_point.PROJECT)
    lock, descriptor = threading.Lock(), os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def tell(**event: str) -> None:
        with lock:
            WRITE(descriptor, json.dumps(event).encode() + b"\n")

    watch_disk(lambda record: tell(record=record))
    for where, words in acts():
        at_point.wrap(where, before=lambda *args, words=words: (said := words(args)) and tell(act=said))
    sys.argv = program
    runpy.run_path(str(Path(shutil.which(program[0]) or program[0]).resolve()), run_name="__main__")


WRITE = os.write


def watch_disk(tell: Callable[[str], None]) -> None:
    """Hear of every record of a journal that fsync has brought to the disk."""
    waiting: dict[int, str] = {}
    sync = os.fsync

    def write(descriptor: int, data: bytes) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith((".source", ".target")):
            waiting[descriptor] = kind(json.loads(data))
        return WRITE(descriptor, data)

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        if descriptor in waiting:
            tell(waiting.pop(descriptor))

    os.write, os.fsync = write, fsync


def acts() -> Iterator[tuple[str, Callable[[tuple[Any, ...]], str]]]:
    """What is watched, and what a call of it with those arguments is called; "" for one that is none."""
    from phaul import docker_api, places

    for name, member in vars(docker_api.Engine).items():
        if callable(member) and name[0] != "_" and name not in READERS and hasattr(member, "__wrapped__"):
            yield f"phaul.docker_api:Engine.{name}", lambda _, name=name: f"Engine.{name}"
    yield "phaul.places:private_dir", lambda args: "work directory" if args[0].parent == places.WORK else ""
    yield "phaul.docker_dump:Dump.__init__", lambda _: "Dump"
    yield "phaul.xem_rpc:Caller.call", lambda args: "asks for the release" if args[1].HasField("release") else ""
    yield "phaul.freezer:end", lambda _: "ends its copy"
    yield "phaul.pages_target:start", lambda _: "starts the pager"
    yield "phaul.docker_restore:announce", lambda _: "announces the restore"
    yield "phaul.docker_restore:say", lambda args: "has it taken for started" if args[1] == "start" else ""
    yield "phaul.docker_restore:release", lambda _: "lets it run"
    yield "phaul.connection:Connection.send", lambda args: answer(args[1])


def answer(message: Any) -> str:
    """What a reply of the target's says of the container."""
    what = message.WhichOneof("what") if message.DESCRIPTOR.name == "Reply" else ""
    if what == "state_is" and message.state_is.state in ("running", "done"):
        return "says that it runs"
    return "says that it holds it" if what == "held" else ""


if __name__ == "__main__":
    main(sys.argv[1:])
