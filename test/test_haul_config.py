"""What `docker inspect` shows, and what the container's own eyes see, is the same after the haul."""

from __future__ import annotations

import re
import shlex
from difflib import unified_diff
from typing import Any

import pytest
from hauling import haul, inspect, state, wait_for
from lab import Host, Lab
from lab.workloads import counter, wait_ticks

RICH = """
--env ONE=1 --env EMPTY= --env PATH=/bin:/opt/bin --env UMLAUT=grün
--label one=1 --label com.example.some=value
--entrypoint /bin/sh --user 0:0 --workdir /some/where --hostname rich --domainname example.org
--dns 10.9.9.9 --dns 10.9.9.10 --dns-search example.org --dns-option ndots:3 --add-host other:10.1.2.3
--ulimit nofile=900:950 --ulimit core=0:0 --ulimit nproc=4000
--sysctl net.core.somaxconn=321 --sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=12345
--cap-add NET_ADMIN --cap-drop MKNOD --cap-drop AUDIT_WRITE
--security-opt no-new-privileges --security-opt seccomp=unconfined
--memory 300m --memory-reservation 50m --memory-swap 400m --memory-swappiness 20 --oom-score-adj 150
--cpu-shares 700 --cpu-period 90000 --cpu-quota 80000 --cpuset-cpus 0 --pids-limit 123
--shm-size 33m --tmpfs /scratch:size=7m,mode=1700 --mount type=tmpfs,dst=/scratch2,tmpfs-size=4194304
--log-driver json-file --log-opt max-size=2m --log-opt max-file=3 --log-opt labels=one
--stop-signal SIGINT --stop-timeout 7 --restart on-failure:5
--health-interval 1h --health-timeout 5s --health-retries 4 --health-start-period 2s --health-start-interval 50m
--expose 9000 --expose 5353/udp --publish 127.0.0.1:8081:81 --publish 8082:82/udp --publish 83
--annotation org.example.note=x --ipc shareable --cgroupns host --group-add 1234 --init
--device-cgroup-rule "c 1:3 r"
--volume named:/data --volume named2:/data2:ro --volume /anon --mount type=volume,src=third,dst=/data3,volume-label=a=b
--network own --network-alias nick --network-alias nack --ip 10.99.8.88 --mac-address 02:42:0a:63:08:58
"""

# What may differ, and only this: ids, dates, the directories of the engine, the runtime, and the
# addresses that the target must choose.
MAY_DIFFER = tuple(
    re.compile(pattern)
    for pattern in (
        r"Id",
        r"Created",
        r"(ResolvConf|Hostname|Hosts|Log)Path",
        r"State\.(Pid|StartedAt|FinishedAt)",
        r"HostConfig\.Runtime",
        r"GraphDriver\.Data\.(ID|LowerDir|MergedDir|UpperDir|WorkDir)",
        r"Mounts\.anonymous\.(Name|Source)",
        r"NetworkSettings\.Sandbox(ID|Key)",
        r"NetworkSettings\.Networks\.\w+\.(EndpointID|NetworkID)",
        # the engine adds the short id to the names
        r"NetworkSettings\.Networks\.\w+\.DNSNames\.id",
        # nobody asked for these addresses
        r"NetworkSettings\.(Networks\.bridge\.)?(IPAddress|MacAddress|EndpointID)",
        # of several networks each device is called as it was
        r"NetworkSettings\.Networks\.(own|second)\.DriverOpts(\.com\.docker\.network\.endpoint\.ifname)?",
        # the engine chooses the host's port itself, as it was asked to
        r"NetworkSettings\.Ports\.83/tcp\.\d\.HostPort",
    )
)
# What the container's first task and its children are and see; the program of this very look is left out.
EYES = r"""
for pid in 1 $(cat /proc/1/task/1/children); do
    case $(cat /proc/$pid/comm) in
    docker-init | ticker | sleep)
        echo "== $(cat /proc/$pid/comm)"
        cat /proc/$pid/limits
        grep -E "^(Umask|Uid|Gid|Groups|NoNewPrivs|Seccomp|Cap)" /proc/$pid/status
        tr "\000" "\n" </proc/$pid/environ
        tr "\000" " " </proc/$pid/cmdline
        for link in cwd root exe; do readlink /proc/$pid/$link; done
        cat /proc/$pid/oom_score_adj
        ;;
    esac
done
cd /proc/sys/net
cat core/somaxconn ipv4/ip_forward ipv4/ip_unprivileged_port_start ipv4/ping_group_range
cat /proc/sys/kernel/msgmax /proc/sys/kernel/domainname
hostname
cat /etc/hostname /etc/resolv.conf
sort /etc/hosts
cut -d " " -f 5 /proc/1/mountinfo | sort
cut -d " " -f 5,6 /proc/1/mountinfo | grep -v "^/proc/" | sort
df -k /dev/shm /scratch /scratch2 | tr -s " " | cut -d " " -f 2,6
for name in memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes memory/memory.memsw.limit_in_bytes \
    memory/memory.swappiness cpu/cpu.shares cpu/cpu.cfs_period_us cpu/cpu.cfs_quota_us cpuset/cpuset.cpus \
    pids/pids.max memory.max memory.low memory.swap.max cpu.max cpu.weight cpuset.cpus pids.max; do
    cat /sys/fs/cgroup/$name 2>/dev/null && echo $name
done
ip -o addr | tr -s " " | cut -d " " -f 2,3,4 | grep -Ev " inet6 fe80| inet (172|10.77)" | sort
ip route | grep -Ev "src (172|10.77)" | sort
"""


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every scalar and every empty container of a JSON value, by its path."""
    if isinstance(value, dict) and value:
        pairs = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list) and value:
        pairs = [(str(index), inner) for index, inner in enumerate(value)]
    else:
        return {path: value}
    return {
        where: leaf for key, inner in pairs for where, leaf in leaves(inner, f"{path}.{key}" if path else key).items()
    }


def shown(host: Host, name: str) -> dict[str, Any]:
    """The leaves of `docker inspect`, with what has no order of its own put in order."""
    seen = inspect(host, name)
    named = re.compile(r"[0-9a-f]{64}")
    seen["Mounts"] = {
        "anonymous" if named.fullmatch(mount.get("Name", "")) else mount["Destination"]: mount
        for mount in seen["Mounts"]
    }
    for network in seen["NetworkSettings"]["Networks"].values():
        names = network["DNSNames"] or []
        network["DNSNames"] = {"id" if seen["Id"].startswith(one) else one: one for one in names}
    return leaves(seen)


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Path and both values of all that differs and may not; a leaf that came or went shows as "-"."""
    return {
        path: (before.get(path, "-"), after.get(path, "-"))
        for path in sorted(before.keys() | after.keys())
        if before.get(path, "-") != after.get(path, "-") and not any(one.fullmatch(path) for one in MAY_DIFFER)
    }


def changed_lines(before: str, after: str) -> str:
    return "\n".join(unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))


def test_inspect_shows_the_same(served: Lab) -> None:
    a, b = served.hosts
    a.docker("network", "create", "--subnet", "10.99.8.0/24", "own")
    a.docker("network", "create", "--subnet", "10.99.9.0/24", "second")
    health = ("--health-cmd", "test -e /ticks && echo 'two  words'")
    command = ("busybox", "-c", "exec ticker", "with spaces", "")
    a.docker("run", "-d", "--name", "rich", *shlex.split(RICH), *health, *command)
    a.docker("network", "connect", "--alias", "other-nick", "--ip", "10.99.9.99", "second", "rich")
    reached = wait_ticks(a, "rich", 5)[-1][0]
    before, seen = shown(a, "rich"), a.docker("exec", "rich", "sh", "-c", EYES)
    assert len(before) > 250
    haul(a, "docker", "rich", b.ip)
    wait_ticks(b, "rich", reached + 20)
    assert differences(before, shown(b, "rich")) == {}
    assert changed_lines(seen, b.docker("exec", "rich", "sh", "-c", EYES)) == ""


@pytest.mark.parametrize(
    "options",
    [
        "",
        "-i",
        "--network none",
        "--network host",
        "--read-only --tmpfs /tmp --ipc private",
        "--ipc none",
        "--log-driver local",
        "--log-driver none",
        "--security-opt systempaths=unconfined --cap-drop ALL",
    ],
)
def test_shapes_of_containers(served: Lab, options: str) -> None:
    a, b = served.hosts
    a.docker("run", "-d", "--name", "shape", *options.split(), "busybox", "sleep", "12345")
    before, seen = shown(a, "shape"), a.docker("exec", "shape", "sh", "-c", EYES, check=False)
    haul(a, "docker", "shape", b.ip)
    assert state(b, "shape") == "running"
    assert differences(before, shown(b, "shape")) == {}
    assert changed_lines(seen, b.docker("exec", "shape", "sh", "-c", EYES, check=False)) == ""


def test_a_container_with_its_hosts_name_takes_the_targets(served: Lab) -> None:
    a, b = served.hosts
    a.docker("run", "-d", "--name", "shape", "--uts", "host", "busybox", "sleep", "12345")
    before = shown(a, "shape")
    haul(a, "docker", "shape", b.ip)
    ids = tuple(inspect(host, "shape")["Id"][:12] for host in served.hosts)
    assert differences(before, shown(b, "shape")) == {"Config.Hostname": ids}
    assert b.docker("exec", "shape", "hostname") == "b"


def test_a_health_check_goes_on(served: Lab) -> None:
    """Its probes, here more often there than not, are in nobody's way."""
    a, b = served.hosts
    probes = ("--health-cmd", "sleep 2", "--health-interval", "10ms", "--health-timeout", "30s")
    counter(a, "ill", *probes)
    wait_for(lambda: health(a, "ill") == "healthy", "the first probe")
    haul(a, "docker", "ill", b.ip)
    wait_for(lambda: health(b, "ill") == "healthy", "a probe at the target")


def health(host: Host, name: str) -> str:
    return str(inspect(host, name)["State"]["Health"]["Status"])
