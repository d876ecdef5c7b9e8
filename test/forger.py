"""A source that lies: it has a key that the target has pinned, and says of a container what it likes.

    forger.py TARGET CONTAINER < {case: {"edits": [[[step, …], value], …], "steps": STEPS, "image": bytes in hex, …}}

Runs in a host of the lab, on P.Haul's own connections; a JSON object of what became of each case comes out: the codes
that a check found, and the step at which the haul was refused, with code and sentence; the step is "" where it was not.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import time
from typing import Any

sys.path.insert(0, "/opt/phaul")

from phaul import args_parser, host_facts, htype, targets
from phaul.connection import raise_failure
from phaul.errors import PhaulError
from phaul.messages_pb2 import Begin, Check, Discard, Poise, Prepare, Reply, Request, Restore
from phaul.xem_rpc import Caller

STEPS = ("begin", "prepare")


class Forger:
    """One haul of a container that is not what is said of it."""

    def __init__(self, target: str, wanted: dict[str, Any], case: dict[str, Any]) -> None:
        self.reach = targets.reach(target)
        self.caller = Caller(self.reach.open("control"))
        self.case = case
        for steps, value in case.get("edits", []):
            place = wanted
            for step in steps[:-1]:
                place = place[step]
            place[steps[-1]] = value
        self.wanted = json.dumps(wanted).encode()
        self.kind = case.get("type", "docker")

    def found(self) -> list[str]:
        check = Check(haul_type=self.kind, wanted=self.wanted, facts=host_facts.gather())
        checked = self.caller.call(Request(check=check), timeout=60).checked
        return sorted({finding.code for finding in checked.findings if finding.blocks})

    def begin(self) -> None:
        haul = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
        begin = Begin(haul=haul, haul_type=self.kind, subject="forged", wanted=self.wanted)
        self.token = self.caller.call(Request(begin=begin), timeout=60).begun.token

    def image(self) -> None:
        self._send("image", bytes.fromhex(self.case.get("image", "")))

    def history(self) -> None:
        self._send("history:", b"{}\n")

    def prepare(self) -> None:
        self.caller.call(Request(prepare=Prepare(lazy=False)), timeout=60)

    def restore(self) -> None:
        self.caller.call(Request(restore=Restore(options=b"{}")), timeout=60)

    def poise(self) -> None:
        self.caller.call(Request(poise=Poise()), timeout=60)

    def end(self) -> None:
        """The target has taken everything back before the next case begins."""
        with contextlib.suppress(PhaulError):
            self.caller.call(Request(discard=Discard()), timeout=60)

    def _send(self, name: str, data: bytes) -> None:
        channel = self.reach.open("data", token=self.token, channel=name)
        with contextlib.closing(channel.link):
            channel.link.send_chunks(iter([data]))
            reply = channel.recv(Reply, timeout=60)
            if reply.HasField("failure"):
                raise_failure(reply.failure)


def told(error: PhaulError) -> dict[str, Any]:
    return {"code": error.code, "sentence": error.sentence, "status": error.status}


def became(target: str, wanted: dict[str, Any], case: dict[str, Any]) -> dict[str, Any]:
    forger = Forger(target, wanted, case)
    seen: dict[str, Any] = {}
    try:
        with contextlib.closing(forger.caller):
            try:
                seen["found"] = forger.found()
            except PhaulError as error:
                seen["found"] = [error.code]
            try:
                for step in case.get("steps", STEPS):
                    seen["step"] = step
                    getattr(forger, step)()
                seen["step"] = ""
            finally:
                forger.end()
    except PhaulError as error:
        seen |= told(error)
    return seen


def main() -> None:
    target, name = sys.argv[1:]
    options = args_parser.parser().parse_args(["docker", name, target])
    source = htype.load("docker").source(name, options)
    wanted = json.dumps({**source.wanted(), "facts": source.facts()})
    cases = json.load(sys.stdin)
    print(json.dumps({name: became(target, json.loads(wanted), case) for name, case in cases.items()}))


if __name__ == "__main__":
    main()
