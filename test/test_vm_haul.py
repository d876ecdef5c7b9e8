"""The main job on two whole machines: systemd, cgroup v2, AppArmor, a stock kernel."""

from __future__ import annotations

import re

import pytest
from hauling import haul, inspect, state, wait_for
from lab import Host, images
from lab.service import Service
from lab.vm import VmLab
from lab.workloads import check_counter, check_memory, counter, memhog, ticks, wait_ticks
from test_haul_docker import test_a_counter_goes_on_at_the_target

__all__ = ["test_a_counter_goes_on_at_the_target"]

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

FEW_PRIVILEGES = ("--security-opt", "no-new-privileges", "--security-opt", "apparmor=unconfined", "--cap-drop", "ALL")
STATUS = re.compile(r"^(Uid|Gid|Groups|Seccomp|Seccomp_filters|NoNewPrivs|Cap\w+):.*$", re.MULTILINE)


def first_pid(host: Host, name: str) -> int:
    """The container's first process, as the host sees it."""
    pid: int = inspect(host, name)["State"]["Pid"]
    return pid


def all_pids(host: Host, name: str) -> list[str]:
    """Every process of the container, as the host sees it."""
    return [line.split()[1] for line in host.docker("top", name).splitlines()[1:]]


def cgroups_seen(host: Host, name: str) -> str:
    """What the container sees of them: its own alone, as the root."""
    return host.docker("exec", name, "sh", "-c", "cat /proc/1/cgroup; cd /sys/fs/cgroup; ls; cat cgroup.procs | wc -l")


def credentials(host: Host, name: str) -> list[str]:
    """What the kernel lets the container's first process do."""
    pid = first_pid(host, name)
    status = host.read("cat", f"/proc/{pid}/status").decode()
    profile = host.read("cat", f"/proc/{pid}/attr/current").decode().strip()
    # Some profiles, runc's for one, have a name and confine nothing.
    profile = "unconfined" if profile.endswith("(unconfined)") else profile
    return [profile, *(found.group() for found in STATUS.finditer(status))]


def test_what_the_machines_can_do(lab: VmLab) -> None:
    """All that a user's machine can, so that no case here is left out without anybody's seeing it."""
    assert lab.capabilities >= {"cgroup-v2", "systemd", "soft-dirty", "non-root-dumps", "apparmor", "power"}


def test_there_and_back_and_there_again(paired: VmLab) -> None:
    """The same container three times: its tasks are in the scope of the new container each time."""
    a, b = paired.hosts
    counter(a, "count")
    seen = cgroups_seen(a, "count")
    assert seen.startswith("0::/\n")
    with Service(a, strict=True), Service(b, strict=True):
        for source, target in ((a, b), (b, a), (a, b)):
            last = wait_ticks(source, "count", ticks(source, "count")[-1][0] + 20)[-1][0]
            haul(source, "docker", "count", target.ip)
            check_counter(wait_ticks(target, "count", last + 20))
            assert cgroups_seen(target, "count") == seen
            assert (state(source, "count"), state(target, "count")) == ("exited", "running")
            source.docker("rm", "count")
            identity = inspect(target, "count")["Id"]
            for pid in all_pids(target, "count"):
                assert f"/docker-{identity}.scope" in target.read("cat", f"/proc/{pid}/cgroup").decode()
            assert target.run("systemctl", "is-active", f"docker-{identity}.scope").out.strip() == "active"
            assert not target.run("sh", "-c", "cat /sys/fs/cgroup/system.slice/cgroup.procs").out.split()
    b.docker("stop", "-t", "1", "count")
    b.docker("start", "count")
    wait_for(lambda: ticks(b, "count")[0][0] == 1, "a new beginning")
    assert state(b, "count") == "running"


def test_a_container_of_an_ordinary_user(served: VmLab) -> None:
    a, b = served.hosts
    script = "n=0; while :; do n=$((n+1)); echo $n >>/tmp/said; sleep 0.1; done"
    a.docker("run", "-d", "--name", "user", "-u", "1000:1000", "busybox", "sh", "-c", script)
    wait_for(lambda: len(said(a, "user")) > 5, "some lines")
    before = credentials(a, "user")
    haul(a, "docker", "user", b.ip)
    reached = said(b, "user")
    wait_for(lambda: len(said(b, "user")) > len(reached) + 5, "more lines")
    numbers = said(b, "user")
    assert numbers == list(range(1, len(numbers) + 1))
    assert credentials(b, "user") == before
    assert "Uid:\t1000\t1000\t1000\t1000" in before
    assert b.docker("exec", "user", "id", "-u") == "1000"


def said(host: Host, name: str) -> list[int]:
    """The numbers in the container's /tmp/said."""
    return [int(word) for word in host.docker("exec", name, "cat", "/tmp/said", check=False).split()]


@pytest.mark.parametrize(
    "switches",
    [
        pytest.param((), id="default"),
        pytest.param(FEW_PRIVILEGES, id="few-privileges", marks=pytest.mark.long),
    ],
)
def test_profiles_are_kept(served: VmLab, switches: tuple[str, ...]) -> None:
    """AppArmor's profile, seccomp's filter and the capabilities are what they were."""
    a, b = served.hosts
    counter(a, "count", *switches)
    before = credentials(a, "count")
    assert before[0] == ("unconfined" if "apparmor=unconfined" in switches else "docker-default (enforce)")
    assert "Seccomp:\t2" in before
    last = ticks(a, "count")[-1][0]
    haul(a, "docker", "count", b.ip)
    assert credentials(b, "count") == before
    check_counter(wait_ticks(b, "count", last + 20))
    refused = b.docker("exec", "count", "sh", "-c", "echo x >/proc/sysrq-trigger || echo no", timeout=60)
    assert refused.endswith("no")


@pytest.mark.long
def test_redis_keeps_its_keys(served: VmLab) -> None:
    a, b = served.hosts
    images.load(a, "services")
    command = ("redis-server", "--save", "", "--port", "0", "--unixsocket", "/tmp/redis.sock")
    a.docker("run", "-d", "--name", "redis", "services", *command)
    wait_for(lambda: redis(a, "ping") == "PONG", "redis")
    fill = "for n in $(seq 1 500); do echo SET key:$n value-$n; done | redis-cli -s /tmp/redis.sock >/dev/null"
    a.docker("exec", "redis", "sh", "-c", fill)
    digest = redis(a, "debug-digest")
    haul(a, "docker", "redis", b.ip)
    assert redis(b, "dbsize") == "500"
    assert redis(b, "debug-digest") == digest
    assert redis(b, "set", "more", "value") == "OK"
    assert redis(b, "get", "key:77") == "value-77"


def redis(host: Host, *words: str) -> str:
    """What redis answers; "debug-digest" is all keys with their values, in order."""
    if words == ("debug-digest",):
        script = "redis-cli -s /tmp/redis.sock keys '*' | sort | xargs redis-cli -s /tmp/redis.sock mget | sha256sum"
        return host.docker("exec", "redis", "sh", "-c", script)
    return host.docker("exec", "redis", "redis-cli", "-s", "/tmp/redis.sock", *words, check=False)


def test_memory_goes_in_rounds_while_it_runs(served: VmLab, soft_dirty: None) -> None:
    """What changes all the time is all that is left for the freeze; and the rest does not go over the wire twice."""
    a, b = served.hosts
    memhog(a, "hog", mib=32, hot_mib=1)
    said = haul(a, "docker", "hog", b.ip, "--mode", "precopy").out
    rounds = [float(size) for size in re.findall(r"^round \d+: ([0-9.]+) MiB changed", said, re.MULTILINE)]
    assert rounds[0] > 32 and 0.9 < rounds[1] < 4, said
    checked = check_memory(b, "hog")
    last = ticks(b, "hog")[-1][0]
    check_counter(wait_ticks(b, "hog", last + 40))
    wait_for(lambda: check_memory(b, "hog") > checked, "a look at all of its memory")
    assert not b.run("sh", "-c", "ls /run/phaul/pages").out.split()
