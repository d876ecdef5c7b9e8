"""What became of the container, found out on both hosts: one copy runs, whole, and of the haul nothing is left."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from faults import CLEAN_S, STALE_SOCKET, all_settled, is_guard, journals, runs
from hauling import HAUL_TIMEOUT_S, inspect, left, state, wait_for
from lab import Done, Host, workloads
from lab.clean import our_processes

from .trial import NAME, NETWORK, PROGRAM, VOLUME, Trial

STAYED, MOVED = "stayed", "moved"
KILLED = -signal.SIGKILL
IN_DOUBT, UNFORESEEN = 8, 1
# What p.haul may have said, by what is so. It says nothing where it is killed.
STATUSES = {STAYED: {3, 4, 7, IN_DOUBT, KILLED}, MOVED: {0, 10, IN_DOUBT, KILLED}}
COMMAND = re.compile(r"p\.haul --resolve [A-Za-z0-9_-]+(?: --force)?")
SETTLE_S = 90


@dataclass(frozen=True)
class Verdict:
    """`command` is what decided, where p.haul could not."""

    outcome: str
    command: str


def reach(trial: Trial) -> Verdict:
    """Raises AssertionError, LabError where it is not as it must be."""
    said_well(trial.done)
    command = settle(trial)
    for host in trial.lab.hosts:
        wait_for(lambda host=host: all_settled(host), f"the settling of the haul on {host.name}", SETTLE_S)
    outcome = one_runs(trial)
    assert trial.done.code in STATUSES[outcome], f"it {outcome}, but p.haul said {trial.done}"
    assert trial.done.code != IN_DOUBT or command, f"p.haul was in doubt for nothing: {trial.done}"
    is_whole(trial, outcome)
    nothing_left(trial, outcome)
    return Verdict(outcome, command)


def said_well(done: Done) -> None:
    """No more than it foresees."""
    assert "Traceback" not in done.out + done.err, done
    assert done.code != UNFORESEEN and "[internal]" not in done.err, done


def settle(trial: Trial) -> str:
    """Wait for the source to come to an end by itself; else do what it says, once: the command."""
    if trial.done.code == KILLED:
        wait_for(lambda: not guards(trial.a), "the end of p.haul's guard", SETTLE_S)
    elif trial.done.code != IN_DOUBT:
        wait_for(lambda: all_settled(trial.a), f"the source's settling after {trial.done}", SETTLE_S)
    if all_settled(trial.a):
        return ""
    assert set(journals(trial.a).values()) == {"committed"}, f"only what is committed can be in doubt: {trial.done}"
    said = trial.done.err
    if trial.done.code == KILLED:
        said = trial.a.run("p.haul", "status", NAME).out
    (command,) = set(COMMAND.findall(said))
    resolved = trial.a.run(*command.split(), timeout=HAUL_TIMEOUT_S, check=False)
    assert resolved.code == 0, f"{command} ended with {resolved} after {said}"
    return str(command)


def guards(host: Host) -> list[str]:
    """The pids inside of P.Haul's second processes there."""
    return [pid for pid, _ in our_processes(host) if is_guard(host.path(f"/proc/{pid}/cmdline"))]


def one_runs(trial: Trial) -> str:
    """What it did, when it runs on one host, as that host's engine sees it, and nothing of it on the other."""

    def where() -> str:
        seen = {host.name: (runs(host, NAME), len(workloads.processes(host, PROGRAM))) for host in trial.lab.hosts}
        return {((True, 1), (False, 0)): STAYED, ((False, 0), (True, 1)): MOVED}.get((seen["a"], seen["b"]), "")

    outcome = wait_for(where, "one running copy", CLEAN_S)
    here, there = (inspect(host, NAME) if state(host, NAME) else None for host in trial.lab.hosts)
    if outcome == STAYED:
        assert here and here["Id"] == trial.id
        assert here["HostConfig"]["RestartPolicy"] == trial.policy
        assert not there, "the target has a container of that name"
    else:
        assert here and here["HostConfig"]["RestartPolicy"]["Name"] == "no"
        assert there and there["HostConfig"]["RestartPolicy"] == trial.policy
    return outcome


def is_whole(trial: Trial, outcome: str) -> None:
    """All of its memory is looked at once more and was always right; no number was left out or came twice, anywhere."""
    host = trial.a if outcome == STAYED else trial.b
    passes = int(trial.ledger()[-1][3])
    wait_for(lambda: int(trial.ledger()[-1][3]) > passes + 1, "a look at all of the memory", CLEAN_S)
    own = workloads.lines(host, NAME)
    ledger = trial.ledger()
    workloads.check_counter([(int(words[0]), float(words[1])) for words in ledger])
    wrong = [words for words in ledger if words[2] != "ok"]
    assert not wrong, f"its memory was not right at line {wrong[0][0]}"
    assert own == ledger[: len(own)], "its file is not what it has written"


def nothing_left(trial: Trial, outcome: str) -> None:
    """When the container, and what is its own, has gone too, both hosts are as they were."""
    assert trial.service.stop() == 0, trial.service.log()
    for host in trial.lab.hosts if outcome == MOVED else (trial.a,):
        host.docker("rm", "-f", NAME)
        host.docker("network", "rm", NETWORK)
        host.docker("volume", "rm", VOLUME)
    for host in trial.lab.hosts:
        changes = left(host, trial.rest[host.name], timeout=CLEAN_S, but=(STALE_SOCKET,))
        assert not changes, f"left on {host.name}: {changes}"
