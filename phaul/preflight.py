"""All reasons of both hosts why a haul cannot work, before anything is touched: one Plan, or one refusal."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

from phaul import codec, host_facts
from phaul.errors import Blocked, Blocker, Refused
from phaul.htype import Capabilities, Driver, Source
from phaul.messages_pb2 import Check, HostFacts, Request
from phaul.xem_rpc import Caller

CHECK_SECONDS = 60


@dataclass(frozen=True)
class Plan:
    """What will be done: what driver, hosts and options can do together, and what the target lacks of the image."""

    capabilities: Capabilities
    wanted: bytes
    lacks: tuple[str, ...]
    target: HostFacts
    memory: int
    files: int = 0


def plan(driver: Driver, source: Source, caller: Caller, options: argparse.Namespace) -> Plan:
    """Raises Blocked with every blocker of both hosts."""
    facts = host_facts.gather()
    blockers = [*_tools(facts, "this host", options), *source.check()]
    if any(blocker.code in _NOTHING_TO_SHOW for blocker in blockers):
        raise Blocked(tuple(blockers))
    document = source.wanted()
    wanted = json.dumps(document).encode()
    request = Request(check=Check(haul_type=driver.name, wanted=wanted, facts=facts))
    checked = caller.call(request, timeout=CHECK_SECONDS).checked
    there = checked.facts
    if there.host_id == facts.host_id:
        raise Refused("The target is this host itself: name another one.", code="same-host")
    blockers += [*_tools(there, there.hostname, options), *_cpu(facts, there, options)]
    blockers += [Blocker(blocker.code, blocker.sentence) for blocker in checked.blockers]
    able = driver.capabilities & Capabilities.of_words(facts.capabilities) & Capabilities.of_words(there.capabilities)
    if not able.hold:
        blockers.append(
            Blocker("hold", f"What is restored on {there.hostname} could not be held until it is verified.")
        )
    hosts = {"this host": facts, there.hostname: there}
    blockers += [*_mode(able, hosts, options), *_compress(able, hosts, options)]
    if blockers:
        raise Blocked(tuple(dict.fromkeys(blockers)))
    return Plan(able, wanted, tuple(checked.lacks), there, int(document["memory"]), int(document.get("bytes", 0)))


# A subject that does not run has nothing to ask the target about.
_NOTHING_TO_SHOW = frozenset({"paused", "restarting", "dead", "not-running", "gone", "storage-driver"})


def _mode(able: Capabilities, hosts: dict[str, HostFacts], options: argparse.Namespace) -> list[Blocker]:
    """What was asked for by name is not replaced by something else."""
    asked = options.mode in ("precopy", "postcopy")
    wish = f"--mode {options.mode}" if asked else "--max-downtime"
    if (asked or options.max_downtime is not None) and not able.post_copy:
        why = [
            f"CRIU and the kernel of {host} cannot restore lazily: leave it out."
            for host in _lacking(hosts, "post_copy")
        ]
    elif options.mode == "precopy" and not able.in_rounds:
        why = [f"install the package python3-xxhash on {host}, or leave it out." for host in _lacking(hosts, "compare")]
    else:
        return []
    whys = why or ["memory of this haul type cannot follow it: leave it out."]
    return [Blocker("mode", f"{wish} is not possible here: {why}") for why in whys]


def _lacking(hosts: dict[str, HostFacts], word: str) -> list[str]:
    """The hosts without the capability."""
    return [host for host, facts in hosts.items() if word not in facts.capabilities]


def _compress(able: Capabilities, hosts: dict[str, HostFacts], options: argparse.Namespace) -> list[Blocker]:
    if options.compress != codec.NAME or able.compress:
        return []
    wish = f"--compress {options.compress} is not possible:"
    found = [
        Blocker("compress", f"{wish} install the package {codec.PACKAGE} on {host}, or leave it out.")
        for host in _lacking(hosts, "compress")
    ]
    return found or [Blocker("compress", f"{wish} what is hauled here cannot be compressed. Leave it out.")]


def _tools(facts: HostFacts, where: str, options: argparse.Namespace) -> list[Blocker]:
    found = host_facts.tool_blockers(facts, where)
    return [blocker for blocker in found if not (options.skip_criu_check and blocker.code == "criu-too-old")]


def _cpu(here: HostFacts, there: HostFacts, options: argparse.Namespace) -> list[Blocker]:
    found = host_facts.cpu_blockers(here, there)
    return [blocker for blocker in found if not (options.skip_cpu_check and blocker.code == "cpu-features")]
