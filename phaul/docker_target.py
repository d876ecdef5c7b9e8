"""The docker driver's half at the target."""

from __future__ import annotations

import contextlib
import logging
import platform
import shutil
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from phaul import (
    docker_config,
    docker_confined,
    docker_image,
    docker_logs,
    docker_mount_checks,
    docker_network_checks,
    docker_restore,
    docker_rootfs,
    docker_target_checks,
    docker_volumes,
    freezer,
    host_facts,
    net_ns,
)
from phaul.docker_api import Engine, NoSuch
from phaul.docker_networks import CRIU_LINES, early_commands, endpoints, movable
from phaul.errors import Blocked, Blocker, Finding, HaulFailed, PhaulError, ProtocolError, Refused
from phaul.htype import RESTORE_WORK
from phaul.journal import Journal
from phaul.overview import Answer
from phaul.policy import Policy

LOG = logging.getLogger("phaul.docker")
Json = dict[str, Any]
START_SECONDS = 60
PULSE_SECONDS = 10
MAX_RECENT = 64 << 20  # bytes, which it holds in memory


class DockerTarget:
    """One container that comes; every change is announced in the journal before it is made."""

    def __init__(self, wanted: Json, journal: Journal, policy: Policy) -> None:
        self.policy = policy
        self.engine = Engine(timeout=600)
        self.pulse = Engine(timeout=PULSE_SECONDS)
        self.wanted = wanted
        self.inspect: Json = wanted["inspect"]
        self.journal = journal
        self.container = ""
        self.first = 0
        self.recent = b""
        self.commenced = False
        self.runc = host_facts.runc_version()  # asked for before the freeze

    @staticmethod
    def admit(wanted: Json, policy: Policy) -> list[Blocker]:
        return docker_target_checks.refusals(Engine(), wanted, policy, platform.node())

    @staticmethod
    def check(wanted: Json, policy: Policy) -> Answer:
        return docker_target_checks.check(wanted, policy, platform.node())

    def receive_image(self, chunks: Iterator[bytes]) -> None:
        self.engine.load(docker_image.untagged(chunks))
        if not docker_image.here(self.engine, self.wanted["image"]):
            raise HaulFailed("The image that arrived is not the one that was announced.", code="image")

    def prepare(self) -> list[Path]:
        self._tag_image()
        self._look = docker_network_checks.look(self.engine, self.wanted, platform.node())
        self._must_be_free()
        for network in self.wanted["networks"]:
            self._make_network(network)
        for name in docker_config.named_volumes(self.inspect["HostConfig"]):
            self._make_volume(name)
        if self.wanted["copy_binds"]:
            for source, kind in self.wanted["binds"].items():
                self._make_bind(Path(source), kind)
        self._create()
        self.pulse.ping()
        return self._trees()

    def _tag_image(self) -> None:
        for tag in self.wanted["image"]["tags"]:
            try:
                self.engine.image(tag)
            except NoSuch:
                self.journal.push("tag", name=tag)
                self.engine.tag(self._image_id(), tag)

    def _image_id(self) -> str:
        return docker_image.here(self.engine, self.wanted["image"]) or str(self.wanted["image"]["id"])

    def _image_reference(self) -> str:
        """The name that the container was made from, where it means the image here too, or else its id."""
        name = str(self.wanted["image"]["name"])
        with contextlib.suppress(NoSuch):
            if name and self.engine.image(name)["Id"] == self._image_id():
                return name
        return self._image_id()

    def _must_be_free(self) -> None:
        """Whoever has not asked for a check may find here what is others': it would be overwritten."""
        here = platform.node()
        found: list[Finding] = [*docker_volumes.taken(self.engine, self.wanted, here)]
        found += docker_mount_checks.volumes_here(self.wanted, here)
        if self.wanted["copy_binds"]:
            found += [one for one in docker_mount_checks.binds_here(self.wanted, here) if one.blocks]
        if found:
            raise Blocked(tuple(found))

    def _make_network(self, network: Json) -> None:
        name = network["Name"]
        if name in {there["Name"] for there in self.engine.networks()}:
            return
        self.journal.push("network", name=name)
        self.engine.make_network(docker_config.network_body(network, subnets=name not in self._look.fresh))

    def _make_volume(self, name: str) -> None:
        try:
            self.engine.volume(name)
        except NoSuch:
            source = next(volume for volume in self.wanted["volumes"] if volume["Name"] == name)
            self.journal.push("volume", name=name)
            self.engine.make_volume(name, source["Driver"], source["Options"], source["Labels"])

    def _make_bind(self, path: Path, kind: str) -> None:
        if kind != "directory":
            raise HaulFailed(
                f"{path} is a single file, --copy-binds copies directories: put it there.", code="bind-file"
            )
        missing = next((p for p in reversed([path, *path.parents]) if not p.exists()), None)
        if missing:
            self.journal.push("bind-dir", path=str(missing))
            path.mkdir(parents=True)

    def _create(self) -> None:
        """Under a passing name, unique to this haul, so that undoing it can never meet another's container."""
        passing = f"phaul-{self.journal.haul}"
        self.journal.push("container", name=passing)
        self.container = self._create_with(passing, self._look.fixed)
        self.journal.note(
            container=self.container, name=self.wanted["name"], policy=self.inspect["HostConfig"]["RestartPolicy"]
        )
        self.journal.note(unasked=self.wanted["unasked"])

    def _create_with(self, passing: str, fixed: Collection[str]) -> str:
        """The engine alone knows whether a network was made with a subnet of somebody's choice: else it gives out
        addresses as it likes.
        """
        names = self.wanted["devices"] if self.engine.names_devices else {}
        body = docker_config.create_body(self.inspect, self._image_reference(), fixed=fixed, names=names)
        docker_target_checks.must_allow(self.engine, self.wanted, body, self.policy, platform.node())
        self.fixed = fixed
        try:
            return self.engine.create(passing, body)
        except HaulFailed as error:
            network = docker_network_checks.not_giving(error.sentence, fixed)
            if not network:
                raise
            if not docker_network_checks.may_change(self.wanted, network):
                raise HaulFailed(docker_network_checks.NOT_GIVING.format(network=network), code="address") from None
        return self._create_with(passing, [name for name in fixed if name != network])

    def _trees(self) -> list[Path]:
        made = self.engine.inspect(self.container)
        places_of = {(mount["Type"], mount["Destination"]): Path(mount["Source"]) for mount in made["Mounts"]}
        filled = [("volume", volume["Destination"]) for volume in docker_config.volumes(self.inspect)]
        if self.wanted["copy_binds"]:
            filled += [("bind", bind["Destination"]) for bind in docker_config.binds(self.inspect)]
        for kind, inside in filled:
            place = places_of.get((kind, inside))
            # Of the bind mounts that it named it was seen that nothing is in them.
            if place is None or (kind == "bind" and str(place) not in self.wanted["binds"]):
                raise ProtocolError(f"The source would fill a {kind} at {inside[:80]!r}, where the container has none.")
        return [docker_rootfs.upper_dir(made), *(places_of[mount] for mount in filled)]

    @cached_property
    def _root(self) -> str:
        """The engine's directory, asked for once: there may be many files."""
        return str(self.engine.info()["DockerRootDir"])

    def keep_history(self, name: str, chunks: Iterator[bytes]) -> None:
        if not self.container:
            raise Refused("A log came before the container was prepared.", code="wrong-state")
        docker_logs.keep(self.inspect, self._root, self.container, name, chunks)

    def keep_recent(self, chunks: Iterator[bytes]) -> None:
        recent = bytearray()
        for chunk in chunks:
            recent += chunk
            if len(recent) > MAX_RECENT:
                raise HaulFailed(f"It wrote more than {MAX_RECENT >> 20} MiB to its log just now.", code="log-storm")
        self.recent = bytes(recent)

    def poise(self, images: Path, *, lazy: bool) -> None:
        # By its id, since it loses its passing name; undone after the hold, which keeps the engine waiting.
        self.journal.push("container", name=self.container)
        self.journal.push("restore", container=self.container)
        work = images.parent / RESTORE_WORK
        docker_restore.announce(self.container, images=images, work=work, lazy=lazy, runc=self.runc)
        self.engine.rename(self.container, self.wanted["name"])
        self.starting = docker_restore.Starting(self.container)
        self.starting.until_poised()

    def restore(self, images: Path, options: Json, logs: Path) -> str:
        try:
            self.first = self.starting.until_held(self._network(options), recent=self.recent)
            self.journal.note(first=self.first)
            docker_network_checks.same_devices(self.first, self.wanted, self.fixed)
            if not self.policy.privileged:
                docker_confined.must_be_confined(self.pids(), docker_restore.spec_of(self.container))
        finally:
            with contextlib.suppress(OSError):  # none was written, or there is no room
                shutil.copy2(images.parent / RESTORE_WORK / "restore.log", logs / "restore.log")
        return self.container

    def _network(self, options: Json) -> docker_restore.Network:
        ends = endpoints(self.inspect, self.wanted["networks"])
        if options["locked"]:
            self.journal.note(locked=True, moved=movable(ends))
        return docker_restore.Network(
            criu="".join(f"{line}\n" for line in options["criu"] if line in CRIU_LINES),
            rules=net_ns.lock_rules() if options["locked"] else "",
            early=early_commands(ends) if options["early"] else "",
        )

    def pids(self) -> list[int]:
        every = freezer.of(self.first).pids()
        return [self.first, *(pid for pid in every if pid != self.first)]

    def commence(self) -> None:
        if not self.commenced:
            self.starting.commence()
            self.commenced = True

    def ready(self) -> None:
        if self.commenced:
            self.starting.until_started()
        else:
            docker_restore.say(self.container, "ready")
        try:
            self.pulse.ping()
        except PhaulError:
            raise HaulFailed("The target's engine died while it held the container.", code="not-held") from None
        if not freezer.of(self.first).frozen():
            raise HaulFailed("The restored tasks are not held any more.", code="not-held")
        docker_restore.must_not_be_doomed(self.pids())

    @staticmethod
    def release(facts: Json) -> None:
        container, first = str(facts["container"]), int(facts["first"])
        if facts.get("locked"):
            _unlock(first, container)
        docker_restore.release(first, container)
        if facts.get("locked"):
            _announce(first, facts["moved"])

    @staticmethod
    def kill(facts: Json) -> None:
        container = str(facts["container"])
        docker_restore.end_tasks(int(facts["first"]), container)
        if docker_restore.was_released(container):
            docker_restore.forget(container)

    @staticmethod
    def settle(facts: Json) -> None:
        container = str(facts["container"])
        # Somebody may have removed it by now.
        with contextlib.suppress(NoSuch):
            _settle(Engine(timeout=START_SECONDS), container, facts)
        docker_restore.forget(container)

    @staticmethod
    def undo(kind: str, args: Json) -> None:
        UNDO[kind](args)


def _settle(engine: Engine, container: str, facts: Json) -> None:
    engine.inspect(container)
    if facts["policy"]["Name"] not in ("", "no"):
        engine.set_restart_policy(container, facts["policy"])
    try:
        engine.start_after_boot(container, facts["policy"], facts["boot"])
    except HaulFailed as error:
        LOG.error("%s came here, but could not be started after the boot: %s", facts["name"], error.sentence)


def _unlock(first: int, container: str) -> None:
    """Its tasks run in any case: what cannot be unlocked is told, and can be by hand."""
    try:
        freezer.of_container(first, container)
        net_ns.unlock(first)
    except HaulFailed as error:
        LOG.error("The network of %s stays locked (nft delete table inet %s): %s", container[:12], net_ns.TABLE, error)


def _announce(first: int, addresses: list[str]) -> None:
    try:
        net_ns.announce(first, addresses)
    except HaulFailed as error:
        LOG.warning("The neighbours could not be told that %s came here: %s", ", ".join(addresses), error.sentence)


def _undo_container(args: Json) -> None:
    """Its anonymous volumes go with it, and what the engine left of its cgroup."""
    engine = Engine()
    try:
        container = str(engine.inspect(args["name"])["Id"])
    except NoSuch:
        return
    engine.remove(container, volumes=True)
    for cgroup in docker_restore.places_of_cgroup(container):
        with contextlib.suppress(OSError):
            cgroup.rmdir()


def _undo_restore(args: Json) -> None:
    docker_restore.discard(args["container"])


def _undo_volume(args: Json) -> None:
    with contextlib.suppress(NoSuch):
        Engine().remove_volume(args["name"])


def _undo_network(args: Json) -> None:
    with contextlib.suppress(NoSuch):
        Engine().remove_network(args["name"])


def _undo_tag(args: Json) -> None:
    with contextlib.suppress(NoSuch):
        Engine().untag(args["name"])


def _undo_bind(args: Json) -> None:
    shutil.rmtree(args["path"], ignore_errors=True)


UNDO: dict[str, Callable[[Json], None]] = {
    "container": _undo_container,
    "restore": _undo_restore,
    "volume": _undo_volume,
    "network": _undo_network,
    "tag": _undo_tag,
    "bind-dir": _undo_bind,
}
