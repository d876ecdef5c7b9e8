"""All reasons of both hosts why a haul cannot work, or needs care, before anything is touched."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from phaul import codec, host_facts
from phaul.connection import MAX_FINDINGS, facts_of, finding_of
from phaul.errors import Blocked, Blocker, Finding
from phaul.htype import Capabilities, Driver, Source
from phaul.messages_pb2 import Check, HostFacts, Request
from phaul.xem_rpc import Caller

CHECK_SECONDS = 60
_MAX_SHOWN = 100


@dataclass(frozen=True)
class Plan:
    """What will be done: what driver, hosts and options can do together, and what the target lacks of the image."""

    capabilities: Capabilities
    wanted: bytes
    lacks: tuple[str, ...]
    memory: int
    cautions: tuple[Finding, ...] = ()
    files: int = 0  # bytes in all of its trees


@dataclass(frozen=True)
class Host:
    """What a host tells of itself, and what the driver there tells of what it works with."""

    facts: HostFacts
    shown: dict[str, str]


@dataclass(frozen=True)
class Survey:
    """Both hosts read, and nothing touched. `there` and `plan` are None where the target could not be asked."""

    findings: tuple[Finding, ...]
    here: Host
    there: Host | None = None
    plan: Plan | None = None

    @property
    def blockers(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.blocks)


def plan(driver: Driver, source: Source, caller: Caller, options: argparse.Namespace) -> Plan:
    """Raises Blocked with every blocker of both hosts."""
    seen = survey(driver, source, caller, options)
    if seen.blockers or not seen.plan:
        raise Blocked(seen.blockers)
    return seen.plan


def survey(driver: Driver, source: Source, caller: Caller, options: argparse.Namespace) -> Survey:
    """Everything that speaks against a haul, or for care."""
    facts = host_facts.gather()
    here = Host(facts, source.facts())
    found = [*_tools(facts, "this host", options), *_about(source.check(), "this host")]
    if any(finding.code in _NOTHING_TO_SHOW for finding in found):
        return Survey(tuple(found), here)
    document = {**source.wanted(), "facts": here.shown}
    wanted = json.dumps(document).encode()
    began = time.monotonic()
    request = Request(check=Check(haul_type=driver.name, wanted=wanted, facts=facts))
    checked = caller.call(request, timeout=CHECK_SECONDS).checked
    there = Host(facts_of(checked.facts), {fact.name: fact.value for fact in checked.shown[:_MAX_SHOWN]})
    if there.facts.host_id == facts.host_id:
        same = Blocker("same-host", "The target is this host itself", "name another one", there.facts.hostname)
        return Survey((same,), here, there)
    found += _of_both(facts, there.facts, options, seconds=time.monotonic() - began)
    found += _about(map(finding_of, checked.findings[:MAX_FINDINGS]), there.facts.hostname)
    hosts = Capabilities.of_words(facts.capabilities) & Capabilities.of_words(there.facts.capabilities)
    able = driver.capabilities & hosts
    found += _of_able(able, {"this host": facts, there.facts.hostname: there.facts}, options)
    every = tuple(dict.fromkeys(found))
    cautions = tuple(finding for finding in every if not finding.blocks)
    made = Plan(able, wanted, tuple(checked.lacks), int(document["memory"]), cautions, int(document.get("bytes", 0)))
    return Survey(every, here, there, made)


def _about(found: Iterable[Finding], where: str) -> list[Finding]:
    """What says of nothing else what it is about is about its host."""
    return [finding if finding.subject else replace(finding, subject=where) for finding in found]


def _of_both(here: HostFacts, there: HostFacts, options: argparse.Namespace, *, seconds: float) -> list[Finding]:
    """What the hosts' own facts say; the target's are `seconds` old at most."""
    found: list[Finding] = [*_tools(there, there.hostname, options), *_cpu(here, there, options)]
    found += host_facts.cgroup_blockers(here, there)
    found += host_facts.older_cautions(here, there)
    return found + list(host_facts.clock_cautions(here, there, seconds=seconds))


def _of_able(able: Capabilities, hosts: dict[str, HostFacts], options: argparse.Namespace) -> list[Blocker]:
    found = [*_mode(able, hosts, options), *_compress(able, hosts, options)]
    if not able.hold:
        there = list(hosts)[-1]
        reason = f"What is restored on {there} could not be held until it is verified"
        found.append(Blocker("hold", reason, "choose another type of haul", there))
    return found


# A subject that does not run has nothing to ask the target about.
_NOTHING_TO_SHOW = frozenset({"paused", "restarting", "dead", "not-running", "gone", "storage-driver"})


def _mode(able: Capabilities, hosts: dict[str, HostFacts], options: argparse.Namespace) -> list[Blocker]:
    """What was asked for by name is not replaced by something else."""
    asked = options.mode in ("precopy", "postcopy")
    wish = f"--mode {options.mode}" if asked else "--max-downtime"
    if (asked or options.max_downtime is not None) and not able.post_copy:
        why = [
            (f"CRIU and the kernel of {host} cannot restore lazily", "leave it out", host)
            for host in _lacking(hosts, "post_copy")
        ]
    elif options.mode == "precopy" and not able.in_rounds:
        why = [
            (f"{host} lacks what memory is compared with", f"install the package python3-xxhash on {host}", host)
            for host in _lacking(hosts, "compare")
        ]
    else:
        return []
    whys = why or [("memory of what is hauled here cannot follow it", "leave it out", wish)]
    return [Blocker("mode", f"{wish} is not possible here: {why}", remedy, where) for why, remedy, where in whys]


def _lacking(hosts: dict[str, HostFacts], word: str) -> list[str]:
    """The hosts without the capability."""
    return [host for host, facts in hosts.items() if word not in facts.capabilities]


def _compress(able: Capabilities, hosts: dict[str, HostFacts], options: argparse.Namespace) -> list[Blocker]:
    if options.compress != codec.NAME or able.compress:
        return []
    wish = f"--compress {options.compress} is not possible"
    found = [
        Blocker(
            "compress", f"{wish} on {host}", f"install the package {codec.PACKAGE} on {host}, or leave it out", host
        )
        for host in _lacking(hosts, "compress")
    ]
    return found or [
        Blocker("compress", f"{wish}: what is hauled here cannot be compressed", "leave it out", "--compress")
    ]


def _tools(facts: HostFacts, where: str, options: argparse.Namespace) -> list[Blocker]:
    found = host_facts.tool_blockers(facts, where)
    return [blocker for blocker in found if not (options.skip_criu_check and blocker.code == "criu-too-old")]


def _cpu(here: HostFacts, there: HostFacts, options: argparse.Namespace) -> list[Blocker]:
    found = host_facts.cpu_blockers(here, there)
    return [blocker for blocker in found if not (options.skip_cpu_check and blocker.code == "cpu-features")]
