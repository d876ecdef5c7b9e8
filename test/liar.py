"""A target that lies: P.Haul's own service, which asks the source for what is none of the haul, and says odd things.

liar.py HOW FILE ARG...      HOW: memory, words; what it got to know goes into FILE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, "/opt/phaul")

from phaul import pages_target, service_args, session
from phaul.errors import LinkLost, ProtocolError
from phaul.link import Link
from phaul.messages_pb2 import Done, Reply, Verify
from phaul.pages_wire import Wish
from phaul.relay import LENGTH

ANSWER_SECONDS = 5.0
ODD = "\x1b[2J\x1b]0;owned\x07 it is\nyours\r"


def memory(heard: Path, *pages: str) -> None:
    """Asks for pages, each TASK:ADDRESS; what is answered is kept."""
    ours = pages_target.carry

    def carry(haul: str, link: Link, channel: str) -> None:
        if channel != "pages:demand":
            ours(haul, link, channel)
            return
        try:
            for task, _, address in (page.partition(":") for page in pages):
                link.send_chunk(memoryview(bytearray(LENGTH.size) + Wish(int(task), int(address, 16), 1).packed()))
            for chunk in link.recv_chunks(timeout=ANSWER_SECONDS):
                with heard.open("ab") as file:
                    file.write(chunk)
        except LinkLost:
            heard.with_name("over").touch()

    pages_target.carry = carry
    session.Session.verify = _well  # type: ignore[method-assign]


def _well(self: Any, request: Verify) -> Reply:
    return Reply(done=Done())


def words(_: Path) -> None:
    """Says what a terminal would act on."""

    def prepare(self: Any, request: Any) -> Reply:
        raise ProtocolError(ODD, code=ODD)

    session.Session.prepare = prepare  # type: ignore[method-assign]


def main() -> None:
    options = sys.argv.index("--allow-privileged")
    how, heard, *more = sys.argv[1:options]
    {"memory": memory, "words": words}[how](Path(heard), *more)
    sys.argv = ["p.haul-service", *sys.argv[options:]]
    sys.exit(service_args.main())


if __name__ == "__main__":
    main()
