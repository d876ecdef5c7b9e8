"""What a peer calls things: names go into the engine's URLs and into paths, and none may mean another thing there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from phaul import docker_config
from phaul.errors import ProtocolError

Json = dict[str, Any]

# What the engine takes for the name of a container, a volume or a network (moby: RestrictedNamePattern).
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
# Before 28 the engine took anything for the name of a network.
_NETWORK = re.compile(r"[^/:\x00-\x1f\x7f]{1,200}")
# The engine looks for an id before it looks for a name.
_ID = re.compile(r"[0-9a-f]{12,64}")
_IMAGE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.:/@-]{0,300}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DEVICE = re.compile(r"[a-zA-Z0-9_.-]{1,15}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SYSCTL = re.compile(r"[a-zA-Z0-9_-]+([./][a-zA-Z0-9_-]+)*")


def name_set(text: str) -> frozenset[str]:
    """A set of names, written with blanks between them."""
    return frozenset(text.split())


def must_be_sound(wanted: Json) -> None:
    """Raises ProtocolError where the document of a source has a name that no engine would have given."""
    for what, text, sound in _named(wanted):
        if not sound:
            raise ProtocolError(f"The source named {what} {text[:60]!r}, which cannot be its name.")


def _named(wanted: Json) -> Iterator[tuple[str, str, bool]]:
    """What is named, the name, and whether that will do."""
    inspect, image = wanted["inspect"], wanted["image"]
    sysctls = inspect["HostConfig"].get("Sysctls") or {}
    yield from _all("a container", [wanted["name"]], _NAME)
    yield from _all("a volume", [volume["Name"] for volume in wanted["volumes"]], _NAME)
    yield from _all("a volume", [mount["Name"] for mount in docker_config.volumes(inspect)], _NAME)
    for network in wanted["networks"]:
        name = network["Name"]
        yield "a network", name, bool(_NETWORK.fullmatch(name)) and not _ID.fullmatch(name)
    yield from _all("an image", [name for name in (image["name"], *image["tags"]) if name], _IMAGE)
    yield from _all("an image", [image["id"]], _DIGEST)
    yield from _all("a network device", wanted["devices"].values(), _DEVICE)
    yield from _all("a sysctl", sysctls, _SYSCTL)
    yield from (("the value of a sysctl", value, not _CONTROL.search(value)) for value in sysctls.values())
    sources = [*wanted["binds"], *(mount["Source"] for mount in docker_config.binds(inspect))]
    yield from (("a path", path, is_plain(path)) for path in sources)
    yield from (("a path", seen["path"], ".." not in seen["path"].split("/")) for seen in wanted["bind_files"])


def _all(what: str, names: Iterable[str], pattern: re.Pattern[str]) -> Iterator[tuple[str, str, bool]]:
    for name in names:
        yield what, name, bool(pattern.fullmatch(name)) and ".." not in name.split("/")


def is_plain(path: str) -> bool:
    """Whether it is absolute, and lies where its words say but for symlinks."""
    return path.startswith("/") and ".." not in path.split("/") and not _CONTROL.search(path)
