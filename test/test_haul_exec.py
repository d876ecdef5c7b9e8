"""What runs in a container by docker exec is in the way, or ended where that is asked for."""

from __future__ import annotations

from hauling import haul, inspect, refused, state, wait_for
from lab import Lab
from lab.workloads import check_counter, counter, ticks, wait_ticks

CHILD = "/bin/sleep 100001 & exec /bin/sleep 100002"
PROBE = ("--health-cmd", "true", "--health-interval", "1s")


def test_sessions_are_ended_where_that_is_asked_for(served: Lab) -> None:
    a, b = served.hosts
    counter(a, "count", *PROBE)
    a.docker("exec", "-d", "count", "sh", "-c", CHILD)
    session = a.popen("docker", "exec", "-i", "count", "sleep", "100003")
    try:
        for word in ("100001", "100002", "100003"):
            wait_for(lambda word=word: f"sleep {word}" in a.docker("top", "count"), word)  # type: ignore[misc]
        last = ticks(a, "count")[-1][0]
        refused(haul(a, "docker", "count", b.ip, check=False), "exec-running")
        assert "sleep 100003" in a.docker("top", "count")
        checked = haul(a, "check", "docker", "count", b.ip, "--kill-exec", check=False)
        assert checked.code == 11 and "--kill-exec ends it" in checked.out
        assert "sleep 100003" in a.docker("top", "count")
        said = haul(a, "docker", "count", b.ip, "--kill-exec").out
        assert "Warning: A docker exec session runs in count" in said
        assert session.wait(30) == 137
    finally:
        session.kill()
        session.wait()
    assert "sleep" not in b.docker("top", "count")
    check_counter(wait_ticks(b, "count", last + 50))
    assert (state(a, "count"), inspect(b, "count")["ExecIDs"]) == ("exited", None)


def test_where_there_are_none_nothing_is_ended(served: Lab) -> None:
    a, b = served.hosts
    counter(a, "count", *PROBE)
    a.docker("exec", "count", "sh", "-c", "/bin/sleep 100004 >/dev/null 2>&1 &")  # its session has ended
    haul(a, "docker", "count", b.ip, "--kill-exec")
    assert "sleep 100004" in b.docker("top", "count")
