"""The Docker engine of this host, through its API: what P.Haul asks of it, with failures in one sentence."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar, cast

import docker
import requests
from docker.errors import APIError, DockerException, NotFound

from phaul import tasks_seen
from phaul.errors import HaulFailed, Refused

SOCKET = "unix:///var/run/docker.sock"
Json = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")


class NoSuch(HaulFailed):
    """The engine does not know the object."""

    code = "no-such-object"


def _told(call: Callable[P, T]) -> Callable[P, T]:
    """The engine's errors as ours."""

    @functools.wraps(call)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        for arg in args:
            if isinstance(arg, str) and {".", ".."} & set(arg.split("/")):
                # In the path of a request it would stand for another object.
                raise NoSuch(f"{arg[:60]!r} is no name of anything in Docker.")
        try:
            return call(*args, **kwargs)
        except NotFound as error:
            raise NoSuch(f"Docker: {error.explanation}") from None
        except APIError as error:
            raise HaulFailed(f"Docker: {error.explanation or error}", code="engine") from None
        except (DockerException, requests.exceptions.RequestException, OSError) as error:
            raise HaulFailed(f"The Docker engine does not answer: {error}", code="engine-down") from None

    return wrapper


class Engine:
    """One connection pool to the engine; `timeout` in seconds bounds each answer. Every call raises HaulFailed."""

    def __init__(self, *, timeout: float = 60) -> None:
        self._timeout = timeout

    @functools.cached_property
    def api(self) -> Any:
        try:
            client = docker.APIClient(base_url=SOCKET, timeout=self._timeout, version="auto")
        except (DockerException, requests.exceptions.RequestException, OSError) as error:
            raise Refused(
                f"No Docker engine answers at {SOCKET[7:]} on this host: start it. ({error})", code="engine-down"
            ) from None
        # A client refers to itself: left to the collector, its sockets would stay open for many a haul.
        weakref.finalize(self, client.close)
        return client

    @_told
    def info(self) -> Json:
        return cast(Json, self.api.info())

    @_told
    def ping(self) -> None:
        """Quick on a connection that is there already."""
        self.api.ping()

    @_told
    def version(self) -> Json:
        return cast(Json, self.api.version())

    @property
    def names_devices(self) -> bool:
        """Whether it takes names for a container's network devices (API 1.48, of Docker 28)."""
        return tuple(map(int, str(self.api._version).split("."))) >= (1, 48)

    @_told
    def inspect(self, container: str) -> Json:
        return cast(Json, self.api.inspect_container(container))

    @_told
    def containers(self) -> list[Json]:
        return cast("list[Json]", self.api.containers(all=True))

    @_told
    def image(self, reference: str) -> Json:
        return cast(Json, self.api.inspect_image(reference))

    @_told
    def images(self) -> list[Json]:
        return cast("list[Json]", self.api.images(all=True))

    @_told
    def history(self, image: str) -> list[Json]:
        """The newest layer first, as the engine lists it."""
        return cast("list[Json]", self.api.history(image))

    @_told
    def save(self, image: str) -> Iterator[bytes]:
        return cast("Iterator[bytes]", self.api.get_image(image, chunk_size=1 << 20))

    @_told
    def load(self, chunks: Iterator[bytes]) -> None:
        for event in self.api.load_image(chunks, quiet=True):
            if "error" in event:
                raise HaulFailed(f"Docker could not load the image: {event['error']}", code="image")

    @_told
    def tag(self, image: str, name: str) -> None:
        repository, _, tag = name.rpartition(":")
        self.api.tag(image, repository, tag)

    @_told
    def untag(self, name: str) -> None:
        self.api.remove_image(name, noprune=True)

    @_told
    def volume(self, name: str) -> Json:
        return cast(Json, self.api.inspect_volume(name))

    @_told
    def make_volume(self, name: str, driver: str, options: Json | None, labels: Json | None) -> Json:
        return cast(Json, self.api.create_volume(name, driver=driver, driver_opts=options, labels=labels))

    @_told
    def remove_volume(self, name: str) -> None:
        self.api.remove_volume(name, force=True)

    @_told
    def networks(self) -> list[Json]:
        return cast("list[Json]", self.api.networks())

    @_told
    def network(self, name: str) -> Json:
        return cast(Json, self.api.inspect_network(name))

    @_told
    def make_network(self, body: Json) -> str:
        response = self.api._post_json(self.api._url("/networks/create"), data=body)
        return str(self.api._result(response, json=True)["Id"])

    @_told
    def remove_network(self, name: str) -> None:
        self.api.remove_network(name)

    @_told
    def create(self, name: str, body: Json) -> str:
        return str(self.api.create_container_from_config(body, name)["Id"])

    @_told
    def start(self, container: str) -> None:
        self.api.start(container)

    def start_after_boot(self, container: str, policy: Json, boot: str) -> None:
        """As the engine does when the host is started, for a container whose restart policy was withheld in that boot.

        Nothing where the host still is in that boot, where the policy does not say so, or where it runs.
        """
        wanted = policy["Name"] not in ("", "no") and boot != tasks_seen.boot_id()
        if wanted and not self.inspect(container)["State"]["Running"]:
            self.start(container)

    @_told
    def rename(self, container: str, name: str) -> None:
        self.api.rename(container, name)

    @_told
    def remove(self, container: str, *, volumes: bool) -> None:
        self.api.remove_container(container, force=True, v=volumes)

    @_told
    def pause(self, container: str) -> None:
        self.api.pause(container)

    @_told
    def unpause(self, container: str) -> None:
        self.api.unpause(container)

    @_told
    def set_restart_policy(self, container: str, policy: Json) -> None:
        self.api.update_container(container, restart_policy=policy)

    @_told
    def wait(self, container: str, *, timeout: float, removed: bool = False) -> None:
        """Until it does not run, or with `removed` until it is not there, any more."""
        self.api.wait(container, timeout=timeout, condition="removed" if removed else "not-running")

    @_told
    def exec(self, exec_id: str) -> Json:
        return cast(Json, self.api.exec_inspect(exec_id))
