"""Haul type docker: a container of the Docker engine, beneath its checkpoint API and above its container API."""

from __future__ import annotations

import argparse
import re

from phaul.docker_project import members
from phaul.docker_source import DockerSource as Source
from phaul.docker_target import DockerTarget as Target
from phaul.docker_wanted import OPTIONS, WANTED
from phaul.htype import Capabilities

CAPABILITIES = Capabilities()
TCP = {
    "keep": "they go on, where peers find its address at the target (macvlan, ipvlan); refused elsewhere",
    "close": "they are closed at the target",
    "refuse": "nothing is moved that has some",
}

__all__ = ["CAPABILITIES", "OPTIONS", "WANTED", "Source", "Target", "add_arguments", "members"]


def _name(text: str) -> str:
    """What the engine takes for a container's name (moby's RestrictedNamePattern): told now, not after the freeze."""
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name for a container")
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `p.haul docker`."""
    parser.add_argument("subject", metavar="container", nargs="?", help="name, id, or the beginning of an id")
    parser.add_argument(
        "--project", metavar="NAME", help="instead of a container: all those of a compose project, or none of them"
    )
    parser.add_argument(
        "--dst-id", type=_name, metavar="NAME", help="the container's name at the target (default: the same)"
    )
    parser.add_argument("--copy-binds", action="store_true", help="copy bind-mounted directories that the target lacks")
    parser.add_argument(
        "--remove-source",
        action="store_true",
        help="remove the source container at the end (default: leave it stopped)",
    )
    parser.add_argument(
        "--kill-exec",
        action="store_true",
        help="end what runs in it by docker exec, before the freeze (default: refuse)",
    )
    parser.add_argument(
        "--tcp",
        choices=tuple(TCP),
        default="keep",
        help="established connections: " + "; ".join(f"{name}: {words}" for name, words in TCP.items()),
    )
    parser.add_argument(
        "--new-address",
        action="store_true",
        help="let it have another address where the target's networks have not got its own (default: refuse)",
    )
