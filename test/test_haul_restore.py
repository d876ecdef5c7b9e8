"""Restores that come to nothing in the middle: nobody waits for what will not come, while the source is frozen."""

from __future__ import annotations

import pytest
from faults import NAME, Scene, ended, failed, goes_on
from hauling import state, wait_for
from lab import workloads

RESTORING = "before=phaul.docker_restore:Starting.until_held"
# What a silent CRIU is ended for in the end is not what is tried here.
NEVER = "set=phaul.docker_restore:STALL_SECONDS=3600"
PORT = 18080
TAKES_THE_PORT = f"""run=(setsid python3 -c 'import socket, time
taken = socket.create_server(("", {PORT}))
print(flush=True)
time.sleep(120)' </dev/null 2>/dev/null &) | head -n 1"""


def kills_the_first(moment: str) -> str:
    """CRIU at the target calls this too, at that moment (criu(8), --action-script)."""
    return f"""run=cat >/tmp/killer <<'END'
#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" != {moment} ] || kill -9 "$CRTOOLS_INIT_PID"
END
chmod +x /tmp/killer
echo action-script /tmp/killer >>$(echo /run/phaul/restore/*/criu.conf)"""


# CRIU sees it, does not see it and waits for ever, has frozen the task, which cannot end.
@pytest.mark.parametrize("moment", ["setup-namespaces", "network-unlock", "pre-resume"])
def test_first_task_killed_while_it_is_restored(scene: Scene, moment: str) -> None:
    with scene.serve(NEVER, RESTORING, kills_the_first(moment)) as service:
        failed(scene.haul(), "restore", "not-held", lab=scene.lab)
        scene.b.run("rm", "/tmp/killer")
        scene.stays(service)
        scene.moves_now()


def test_engine_that_cannot_make_the_network(scene: Scene) -> None:
    """A port that was free when it was checked: the engine kills the first task, whatever CRIU is at."""
    container = workloads.counter(scene.a, "other", "-p", f"{PORT}:80")
    with scene.serve(NEVER, RESTORING, TAKES_THE_PORT):
        with scene.begun(name="other") as hauling:
            sentence = failed(ended(hauling), "restore", lab=scene.lab)
        assert f"{PORT}" in sentence
        scene.b.run("pkill", "-f", f"create_server.*{PORT}")
        goes_on(scene.a, "other")
        wait_for(lambda: state(scene.b, "other") == "", "its removal from b")
    assert scene.a.docker("inspect", "-f", "{{.Id}}", "other") == container
    assert state(scene.a, NAME) == "running"
