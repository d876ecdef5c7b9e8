"""The containers of a compose project, by the labels that compose gives them (its api/labels.go)."""

from __future__ import annotations

from collections import Counter
from graphlib import CycleError, TopologicalSorter
from typing import Any

from phaul import docker_config
from phaul.docker_api import Engine
from phaul.errors import Refused

Json = dict[str, Any]
PROJECT, SERVICE = "com.docker.compose.project", "com.docker.compose.service"
DEPENDS_ON = "com.docker.compose.depends_on"


def members(project: str) -> list[str]:
    """Names of its containers that run, those that others depend on first.

    Raises Refused (no-project, project-stopped, volume-shared).
    """
    engine = Engine()
    every = [one for one in engine.containers() if (one.get("Labels") or {}).get(PROJECT) == project]
    if not every:
        raise Refused(f"There is no compose project {project!r} on this host (docker compose ls).", code="no-project")
    stopped = [_name(one) for one in every if one["State"] != "running"]
    if stopped:
        sentence = f"{stopped[0]} of project {project} does not run: start it, or remove it (docker rm {stopped[0]})."
        raise Refused(sentence, code="project-stopped")
    _share_no_volume([engine.inspect(one["Id"]) for one in every])
    return _in_order(every)


def _name(one: Json) -> str:
    return str(one["Names"][0]).lstrip("/")


def _share_no_volume(inspects: list[Json]) -> None:
    """The second of them would find a volume there that has content."""
    used = Counter(volume["Name"] for inspect in inspects for volume in docker_config.volumes(inspect))
    shared = [name for name, count in used.items() if count > 1]
    if shared:
        raise Refused(
            f"Volume {shared[0]} is used by several containers: they cannot move together.", code="volume-shared"
        )


def _in_order(every: list[Json]) -> list[str]:
    """Raises Refused (project-cycle)."""
    of_service: dict[str, list[str]] = {}
    for one in sorted(every, key=_name):
        of_service.setdefault(str(one["Labels"].get(SERVICE, "")), []).append(_name(one))
    needs: dict[str, set[str]] = {service: set() for service in of_service}
    for one in every:
        words = str(one["Labels"].get(DEPENDS_ON, "")).split(",")
        needs[str(one["Labels"].get(SERVICE, ""))] |= {word.partition(":")[0] for word in words} & of_service.keys()
    try:
        return [name for service in TopologicalSorter(needs).static_order() for name in of_service[service]]
    except CycleError:
        raise Refused("Services of the project depend on each other in a circle.", code="project-cycle") from None
