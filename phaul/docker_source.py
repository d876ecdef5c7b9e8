"""The docker driver's half at the source."""

from __future__ import annotations

import argparse
import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from phaul import (
    criu_api,
    criu_images,
    docker_checks,
    docker_config,
    docker_dump,
    docker_execs,
    docker_host_checks,
    docker_image,
    docker_logs,
    docker_mount_checks,
    docker_rootfs,
    firewall,
    freezer,
    host_facts,
    sample,
    sockets_seen,
    tasks_seen,
)
from phaul.docker_api import Engine, NoSuch
from phaul.docker_dump import Dump
from phaul.docker_networks import Wish
from phaul.docker_source_network import SourceNetwork, undo_lock
from phaul.errors import Finding, HaulFailed, PhaulError, Refused, UsageError
from phaul.htype import Dumped, Tree
from phaul.journal import Journal
from phaul.overview import Overview, Part
from phaul.tasks_seen import Written

LOG = logging.getLogger("phaul.docker")
Json = dict[str, Any]
EXIT_SECONDS = 30
STOP_SECONDS, REST_SECONDS = 5, 1
PROBE_SECONDS = 30
PROBE_PAUSE_SECONDS = 0.02


class DockerSource:
    """One running container; nothing is changed before freeze()."""

    def __init__(self, subject: str | None, options: argparse.Namespace) -> None:
        self.engine = Engine()
        self.options = options
        try:
            if subject is None:
                raise UsageError("A container (or --project) and a target are needed. See p.haul docker --help.")
            if not subject:
                raise NoSuch("Docker takes no empty name.")
            self.inspect: Json = self.engine.inspect(subject)
        except NoSuch:
            raise Refused(
                f"There is no container {subject!r} on this host (docker ps shows them).", code="no-such-container"
            ) from None
        except HaulFailed as error:
            if "multiple IDs" in error.sentence:
                raise Refused(
                    f"{subject!r} begins more than one container's id: write more of it.", code="ambiguous"
                ) from None
            raise Refused(error.sentence, code=error.code) from None
        self.network = SourceNetwork(self.engine, self.inspect, Wish(tcp=options.tcp, new_address=options.new_address))
        self.id = str(self.inspect["Id"])
        self.name = str(self.inspect["Name"]).lstrip("/")

    def check(self) -> list[Finding]:
        criu_images.prepare()
        here = "this host"
        tools = [*host_facts.runc_blockers(here, self.runc), *host_facts.pycriu_blockers(here)]
        tools += docker_checks.engine_blockers(self.engine.version()["Version"], here)
        found: list[Finding] = [*docker_checks.all_blockers(self.inspect, self.name), *tools]
        if docker_checks.state_blockers(self.inspect, self.name):
            return found
        found += docker_execs.findings(self.engine, self.inspect, self.name, kill=self.options.kill_exec)
        found += self.network.blockers()
        return [*found, *firewall.cautions(int(self.inspect["State"]["Pid"]), f"container {self.name}")]

    def facts(self) -> dict[str, str]:
        return docker_host_checks.facts(self.engine, self.engine.info(), self.runc)

    def overview(self, lacks: list[str]) -> Overview:
        image = self.image_document
        parts = [Part("image", image["name"] or image["id"], docker_image.size_of(self.engine, image, lacks))]
        trees = zip(self.trees(), self.sizes, strict=True)
        parts += [Part(tree.kind, self._called(tree), size) for tree, size in trees]
        parts.append(Part("memory", "memory", tasks_seen.memory(self._pids())))
        return Overview(tuple(parts), self.network.fates())

    def _called(self, tree: Tree) -> str:
        """A volume's name, or where a bind mount is from."""
        names = {mount["Destination"]: mount.get("Name") or mount["Source"] for mount in self.inspect["Mounts"]}
        return str(names.get(tree.inside, "writable layer"))

    @cached_property
    def sizes(self) -> list[int]:
        """Of the trees, in bytes."""
        return [docker_checks.size_of(tree.path) for tree in self.trees()]

    @cached_property
    def runc(self) -> tuple[int, ...]:
        """Its version, asked for in the check and not again while the tasks are frozen."""
        return host_facts.runc_version()

    @cached_property
    def image_document(self) -> Json:
        image = self.engine.image(self.inspect["Image"])
        return {
            "id": image["Id"],
            "content": docker_image.content(image),
            "tags": [tag for tag in image.get("RepoTags") or [] if tag != "<none>:<none>"],
            "architecture": image["Architecture"],
            "os": image["Os"],
            "size": image["Size"],
            "store": docker_rootfs.driver(self.inspect),
            "name": self._image_name(image["Id"]),
        }

    def _image_name(self, image_id: str) -> str:
        """The name that the container was made from, where it still means the same image."""
        name = str(self.inspect["Config"]["Image"])
        with contextlib.suppress(PhaulError):
            if self.engine.image(name)["Id"] == image_id:
                return name
        return ""

    def wanted(self) -> Json:
        volumes = [self.engine.volume(volume["Name"]) for volume in docker_config.volumes(self.inspect)]
        return {
            "inspect": self.inspect,
            "name": self.options.dst_id or self.name,
            "image": self.image_document,
            **self.network.wanted(),
            "volumes": volumes,
            "binds": {bind["Source"]: _kind(Path(bind["Source"])) for bind in docker_config.binds(self.inspect)},
            "bind_files": [seen.document() for seen in docker_mount_checks.files_in_binds(self._pids(), self.inspect)],
            "serving": sockets_seen.serving(self._pids()) if docker_checks.shares_host_network(self.inspect) else [],
            "copy_binds": bool(self.options.copy_binds),
            "memory": tasks_seen.memory(self._pids()),
            "bytes": sum(self.sizes) + self.log.size(),
        }

    def trees(self) -> list[Tree]:
        """The writable layer first, then volumes and (where they are to be copied) bind mounts, by destination."""
        root = Path("/proc") / str(self.inspect["State"]["Pid"]) / "root"
        found = [Tree(docker_rootfs.upper_dir(self.inspect), "rootfs", "/", root)]
        found += [_mounted(volume, "volume") for volume in docker_config.volumes(self.inspect)]
        if self.options.copy_binds:
            found += [_mounted(bind, "bind") for bind in docker_config.binds(self.inspect)]
        return found

    @cached_property
    def log(self) -> docker_logs.History:
        return docker_logs.History(self.inspect, str(self.engine.info()["DockerRootDir"]))

    def history(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        return self.log.files()

    def recent(self) -> bytes:
        return self.log.recent()

    def written(self) -> Written:
        return tasks_seen.written(self._pids())

    def _pids(self) -> list[int]:
        return freezer.of(int(self.inspect["State"]["Pid"])).pids()

    def sample(self, most: int) -> list[bytes]:
        return sample.of(self._pids(), most)

    def image(self, lacks: list[str]) -> Iterator[bytes] | None:
        if not lacks:
            return None
        document = self.image_document
        left_out = set(document["content"]["layers"]) - set(lacks)
        return docker_image.without_layers(self.engine.save(document["id"]), left_out)

    @contextlib.contextmanager
    def brief_stops(self, journal: Journal) -> Iterator[Callable[[Callable[[], None]], None]]:
        """By the cgroup: the engine need not know, and it is sooner done."""
        pid = int(self.inspect["State"]["Pid"])
        journal.note(container=self.id, pid=pid)
        number = journal.push("thaw", container=self.id, pid=pid)

        def stopped(act: Callable[[], None]) -> None:
            cgroup = freezer.of_container(pid, self.id)
            try:
                cgroup.freeze(timeout=STOP_SECONDS)
                act()
            finally:
                cgroup.thaw()

        yield stopped
        journal.forget(number)

    @contextlib.contextmanager
    def poised(self, journal: Journal, images: Path, logs: Path, *, lazy: bool) -> Iterator[None]:
        journal.push("dump", work=str(images.parent))
        self.begun = self._begin_dump(images, lazy=lazy)
        try:
            self.begun.until_poised()
            yield
        finally:
            self.begun.close()
            _keep_log(images.parent / "dump.log", logs)

    def _begin_dump(self, images: Path, *, lazy: bool) -> Dump:
        return Dump(
            self.id,
            images=images,
            work=images.parent,
            network=self.network.criu_lines(),
            runc=self.runc,
            lazy=lazy,
        )

    def freeze(self, journal: Journal) -> None:
        """The engine must not start it again when its copy here ends: the restart policy goes first."""
        pid = int(self.inspect["State"]["Pid"])
        remove, rm = bool(self.options.remove_source), bool(self.inspect["HostConfig"]["AutoRemove"])
        journal.note(container=self.id, name=self.name, pid=pid, remove=remove, rm=rm)
        policy = self.inspect["HostConfig"]["RestartPolicy"]
        if policy["Name"] not in ("", "no"):
            journal.push("restart-policy", container=self.id, policy=policy)
            self.engine.set_restart_policy(self.id, docker_config.NO_RESTART)
        facts = {"work": journal.head["work"], "boot": journal.head["boot"], "policy": policy}
        journal.push("pause", container=self.id, pid=pid, **facts)
        self.network.announce_lock(journal)
        self._pause_between_starts()
        for blocker in self.network.blockers():
            raise HaulFailed(blocker.sentence, code=blocker.code)

    def _pause_between_starts(self) -> None:
        """Not while a health probe runs, nor while a program starts another by vfork: both pass in a moment.

        Raises HaulFailed (exec-running, connection-arrives) where what passes does not.
        """
        until = freezer.deadline(PROBE_SECONDS)
        while True:
            seen = self.engine.inspect(self.id)
            if self.options.kill_exec:
                docker_execs.kill(self.engine, seen)
            busy = docker_execs.sessions(self.engine, seen)
            if not busy:
                self.engine.pause(self.id)
                if self._between_starts() and self.network.lock():
                    return
                # A health probe: the engine, which paused, has given it up, and so it ends.
                self.engine.unpause(self.id)
            if freezer.deadline(0) > until:
                raise self._never_still(busy=bool(busy))
            time.sleep(PROBE_PAUSE_SECONDS)

    def _never_still(self, *, busy: bool) -> HaulFailed:
        if busy:
            return HaulFailed(f"A docker exec session runs in {self.name}: end it first.", code="exec-running")
        if self.network.arriving:
            sentence = f"A connection to {self.name} waits to be accepted all the time: have it accept, or --tcp close."
            return HaulFailed(sentence, code="connection-arrives")
        return HaulFailed(f"{self.name} is never without a health probe, or a start by vfork.", code="exec-running")

    def _between_starts(self) -> bool:
        return not docker_execs.running(self.engine, self.engine.inspect(self.id)) and not self._starts_another()

    def _starts_another(self) -> bool:
        pids = self._pids()
        return any(tasks_seen.waits_in_vfork(pid) for pid in pids)

    def dump(self, images: Path, *, lazy: bool) -> Dumped:
        lines = self.network.criu_lines()
        if lines != self.begun.network:
            # It waits with the other configuration.
            self.begun.close()
            self.begun = self._begin_dump(images, lazy=lazy)
            self.begun.until_poised()
        pid = int(self.inspect["State"]["Pid"])
        pids = freezer.of(pid).pids()
        self.begun.finish(pids)
        LOG.debug("dumped")
        ordered = [pid, *(other for other in pids if other != pid)]
        return Dumped({**self.network.options(lines), "lazy": lazy}, tasks_seen.expectation(ordered))

    def stands_still(self) -> None:
        self.begun.await_end()
        # CRIU may have let go of them just now: they take a moment to stand still again.
        cgroup = freezer.of_container(int(self.inspect["State"]["Pid"]), self.id)
        if not cgroup.comes_to_rest(timeout=REST_SECONDS):
            raise HaulFailed(f"{self.name} has run since it was frozen: somebody has let it.", code="not-frozen")

    @staticmethod
    def tasks(facts: Json) -> dict[int, int]:
        return {
            tasks_seen.inner_pid(pid): pid
            for pid in freezer.of_container(int(facts["pid"]), str(facts["container"])).pids()
        }

    @staticmethod
    def finish(facts: Json) -> list[str]:
        """SIGKILL and thaw at once: no task comes back to user space; then the engine learns that it ended."""
        pid, container = int(facts["pid"]), str(facts["container"])
        if not freezer.end(pid, container, timeout=EXIT_SECONDS):
            raise HaulFailed(f"Process {pid} of the source copy does not end.", code="source-not-ended")
        engine = Engine()
        with contextlib.suppress(NoSuch):
            seen = engine.inspect(container)["State"]
            if seen["Running"] and seen["Pid"] not in (0, pid):
                raise HaulFailed(f"{facts['name']} was started anew here meanwhile: stop it.", code="started-anew")
            engine.wait(container, timeout=EXIT_SECONDS, removed=facts["rm"])
            if facts["rm"]:
                raise NoSuch("The engine has removed it.")
            if facts.get("remove"):
                engine.remove(container, volumes=False)
                return [f"The source container {facts['name']} is removed; its volumes stay."]
            engine.set_restart_policy(container, docker_config.NO_RESTART)
            return [f"The source container {facts['name']} is left stopped, its restart policy put to no."]
        return [f"The source container {facts['name']} is gone (it was run with --rm)."]

    @staticmethod
    def undo(kind: str, args: Json) -> None:
        UNDO[kind](args)


def _keep_log(log: Path, logs: Path) -> None:
    with contextlib.suppress(OSError):  # none was written, or there is no room
        shutil.copy2(log, logs)  # its date tells when CRIU ended


def _mounted(mount: Json, kind: str) -> Tree:
    return Tree(Path(mount["Source"]), kind, mount["Destination"], Path(mount["Source"]))


def _kind(path: Path) -> str:
    return "directory" if path.is_dir() else "file"


def _undo_restart_policy(args: Json) -> None:
    with contextlib.suppress(NoSuch):
        Engine().set_restart_policy(args["container"], args["policy"])


def _undo_pause(args: Json) -> None:
    """Through the engine, so that it knows; without an engine, by the cgroup: running comes first."""
    criu_api.await_end(Path(args["work"]))
    engine = Engine()
    try:
        if engine.inspect(args["container"])["State"]["Paused"]:
            _unpause(engine, args)
    except NoSuch:
        return
    except PhaulError:
        LOG.warning("The engine does not answer: thawing %s by its cgroup.", args["container"][:12])
        freezer.of_container(int(args["pid"]), args["container"]).thaw()
        return
    engine.start_after_boot(args["container"], args["policy"], args["boot"])


def _unpause(engine: Engine, args: Json) -> None:
    """A CRIU that is killed in its dump leaves the tasks running; such ones the engine cannot unpause, nor know of."""
    cgroup = freezer.of_container(int(args["pid"]), args["container"])
    if not cgroup.frozen():
        cgroup.freeze(timeout=STOP_SECONDS)
    engine.unpause(args["container"])


def _undo_thaw(args: Json) -> None:
    with contextlib.suppress(HaulFailed):
        freezer.of_container(int(args["pid"]), str(args["container"])).thaw()


def _undo_dump(args: Json) -> None:
    docker_dump.call_off(Path(args["work"]))


UNDO = {
    "dump": _undo_dump,
    "thaw": _undo_thaw,
    "restart-policy": _undo_restart_policy,
    "pause": _undo_pause,
    "lock": undo_lock,
}
