"""Which of this host's directories a container that comes may have parts of: bind mounts, and volumes that are some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from phaul import docker_config, docker_names, policy
from phaul.docker_names import name_set
from phaul.errors import Blocker
from phaul.policy import Policy

Json = dict[str, Any]

# What the options of a volume of the driver `local` are, which are those of mount(8).
BIND_WORDS = name_set("bind rbind private rprivate ro rw noexec nosuid nodev")
TMPFS_WORDS = name_set("size mode uid gid nr_inodes ro rw noexec nosuid nodev noatime")
SHARED = ("shared", "rshared")
MOUNT_FIELDS = {
    "bind": ("BindOptions", name_set("Propagation NonRecursive CreateMountpoint ReadOnlyNonRecursive "
                                      "ReadOnlyForceRecursive")),
    "volume": ("VolumeOptions", name_set("NoCopy Labels Subpath DriverConfig")),
    "tmpfs": ("TmpfsOptions", name_set("SizeBytes Mode Options")),
}  # fmt: skip
COMMON_FIELDS = name_set("Type Source Target ReadOnly Consistency")


@dataclass(frozen=True)
class Wish:
    """Something that is asked for: a `path` of this host, or else what only --allow-privileged allows, in words."""

    path: str = ""
    words: str = ""


def refusals(wanted: Json, host: Json, allowed: Policy, *, here: str) -> list[Blocker]:
    """Of a container's mounts, of volumes that it names, and of paths that the source would fill."""
    wishes = dict.fromkeys([*_of_binds(host), *_of_mounts(host), *_of_volumes(wanted, host), *_of_source(wanted)])
    return [blocker for wish in wishes for blocker in _judged(wish, allowed, wanted["name"], here)]


def _judged(wish: Wish, allowed: Policy, name: str, here: str) -> Iterator[Blocker]:
    if wish.words and not allowed.privileged:
        yield policy.asks(name, wish.words, here)
    if wish.path and not (docker_names.is_plain(wish.path) and allowed.takes_path(wish.path)):
        reason = (
            f"Container {name} asks for {wish.path[:80]!r} of {here}, which is in no directory that is allowed there"
        )
        yield policy.refused(reason, f"{policy.BIND} DIR", f"container {name}")


def _of_binds(host: Json) -> Iterator[Wish]:
    """SOURCE:TARGET[:OPTIONS]; what begins with no slash is a volume's name."""
    for bind in host.get("Binds") or []:
        source, _, rest = bind.partition(":")
        if source.startswith("/"):
            yield Wish(path=source)
        if bind.count(":") > 2:
            yield Wish(words=f"the mount {bind[:60]!r}")
        yield from _propagation(rest.partition(":")[2])


def _propagation(options: str) -> Iterator[Wish]:
    for word in options.split(","):
        if word in SHARED:
            yield Wish(words=f"mounts that reach the host ({word})")


def _of_mounts(host: Json) -> Iterator[Wish]:
    for mount in host.get("Mounts") or []:
        kind = mount.get("Type")
        if kind not in MOUNT_FIELDS:
            yield Wish(words=f"a mount of type {str(kind)[:20]}")
            continue
        name, fields = MOUNT_FIELDS[kind]
        options = mount.get(name) or {}
        odd = [*(mount.keys() - COMMON_FIELDS - {name}), *(options.keys() - fields)]
        yield from (Wish(words=f"a mount with {field[:40]}") for field in sorted(odd))
        if kind == "bind":
            yield Wish(path=mount["Source"])
            yield from _propagation(options.get("Propagation") or "")
        driver = options.get("DriverConfig") or {}
        yield from _of_driver(driver.get("Name") or "local", driver.get("Options") or {}, "a volume")
        yield from (Wish(words=f"a volume with {field[:40]}") for field in sorted(driver.keys() - {"Name", "Options"}))


def _of_volumes(wanted: Json, host: Json) -> Iterator[Wish]:
    """Those that the source describes, and those that it only names: these would be whatever is here."""
    known = {volume["Name"] for volume in wanted["volumes"]}
    for volume in wanted["volumes"]:
        yield from _of_driver(volume["Driver"], volume.get("Options") or {}, f"volume {volume['Name']}")
    named = [*docker_config.named_volumes(host), *(mount["Name"] for mount in docker_config.volumes(wanted["inspect"]))]
    yield from (Wish(words=f"volume {name[:40]}, which it does not bring") for name in named if name not in known)


def _of_source(wanted: Json) -> Iterator[Wish]:
    """Where the source would have bind mounts looked for, or made and filled."""
    yield from (Wish(path=path) for path in wanted["binds"])
    yield from (Wish(path=mount["Source"]) for mount in docker_config.binds(wanted["inspect"]))


def _of_driver(driver: str, options: Json, what: str) -> Iterator[Wish]:
    if driver != "local":
        yield Wish(words=f"{what} of the driver {driver[:40]}")
        return
    kind, device = options.get("type") or "", options.get("device") or ""
    words = {word.partition("=")[0] for word in (options.get("o") or "").split(",") if word}
    odd = options.keys() - {"type", "device", "o", "size"}
    if not (kind or device or words or odd):
        return
    # With these words it is a bind mount, whatever type it is said to be of.
    bound = bool(words & {"bind", "rbind"})
    if bound:
        yield Wish(path=device)
    kinds, sound = (("", "none", "bind"), BIND_WORDS) if bound else (("tmpfs",), TMPFS_WORDS)
    if odd or kind not in kinds or not words <= sound:
        shown = ", ".join(f"{key}={value}" for key, value in sorted(options.items()))
        yield Wish(words=f"{what} with {shown[:80]}")
