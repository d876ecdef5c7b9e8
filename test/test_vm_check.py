"""The check on two whole machines: a profile that one of them lacks, clocks that differ, cgroup v2."""

from __future__ import annotations

import pytest
from hauling import checked, refusal
from lab import Host
from lab.vm import VmLab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

PROFILE = """
profile {name} flags=(attach_disconnected,mediate_deleted) {{
  file, capability, network, signal, ptrace, mount, umount, unix,
}}
"""
NAME = "phaul-of-a-test"


def load(host: Host, *switches: str) -> None:
    """Give the profile to the host's kernel."""
    host.put(f"/tmp/{NAME}", PROFILE.format(name=NAME).encode())
    host.run("apparmor_parser", *switches, f"/tmp/{NAME}")


def set_clock(host: Host, like: Host, *, ahead: float = 0) -> None:
    """Have the host's clock show what the other's does, or so many seconds more."""
    now = float(like.run("date", "+%s.%N").out)
    host.run("date", "--set", f"@{now + ahead:.3f}")


def test_a_profile_that_the_target_lacks_and_a_clock(served: VmLab) -> None:
    a, b = served.hosts
    load(a, "--replace")
    try:
        confined = ("--security-opt", f"apparmor={NAME}")
        a.docker("run", "-d", "--name", "bad", *confined, "busybox", "sleep", "100000")
        assert f"AppArmor profile {NAME} is not loaded on b" in refusal(a, b, "apparmor")
        load(b, "--replace")
        set_clock(b, a, ahead=1000)
        done, found = checked(a, b)
        assert (done.code, [one["code"] for one in found["findings"]]) == (11, ["clock"])
        assert "s ahead of this host's" in found["findings"][0]["reason"]
        set_clock(b, a)
        done, found = checked(a, b)
        # Emulated machines under load are too slow to be set to the second.
        assert done.code in (0, 11) and {one["code"] for one in found["findings"]} <= {"clock"}
        for side in ("source", "target"):
            assert found[side]["facts"]["cgroup"] == "v2"
            assert "apparmor" in found[side]["facts"]["security"].split()
            assert "apparmor" in found[side]["facts"]["security modules"].split(",")
            assert "tracks changed memory" in found[side]["facts"]["features"]
    finally:
        a.docker("rm", "-f", "bad", check=False)
        for host in (a, b):
            host.run("apparmor_parser", "--remove", f"/tmp/{NAME}", check=False)
