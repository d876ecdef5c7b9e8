#!/usr/bin/python3 -IS
"""The OCI runtime `phaul`: runc, except for a container that P.Haul is about to restore.

The engine calls it as it calls runc. Where /run/phaul/restore/<id>/restore.json exists, `create`
becomes `runc restore`, and `start` keeps the restored, frozen tasks until P.Haul says on the
directory's hold.sock "release" (thaw them) or "discard" (kill them); "ready" it answers with
"held". Everything else is runc's.

Standard library only, and as little of it as possible: its start is part of the downtime.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RESTORE = "/run/phaul/restore"
HOLD = os.path.join(os.path.dirname(os.path.realpath(__file__)), "hold.sh")
V2 = "/sys/fs/cgroup/cgroup.controllers"
VERBS = ("create", "start")
TAKES_VALUE = ["--root", "--log", "--log-format", "--criu", "--rootless", "--bundle", "-b", "--pid-file"]
TAKES_VALUE += ["--console-socket", "--preserve-fds"]


def parse(argv: list[str]) -> tuple[int, str, str, dict[str, str]] | None:
    """(index of the verb, its word, container id, options by name), or None for a call that is runc's alone."""
    options: dict[str, str] = {}
    index, verb = 0, None
    while index < len(argv):
        word = argv[index]
        if word in TAKES_VALUE and index + 1 < len(argv):
            options[word] = argv[index + 1]
            index += 2
            continue
        if word.startswith("-"):
            name, _, value = word.partition("=")
            options[name] = value
        elif verb is None:
            if word not in VERBS:
                return None
            verb = index
        index += 1
    return None if verb is None else (verb, argv[verb], argv[-1], options)


def runc() -> str:
    for directory in (*os.environ.get("PATH", "").split(":"), "/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin"):
        path = os.path.join(directory, "runc")
        if os.access(path, os.X_OK):
            return path
    sys.exit("phaul runtime: runc is not installed")


def adapt(bundle: str, pending: str) -> dict[str, Any]:
    """Change the bundle for a restore: CRIU's configuration, and mount sources without symlinks (CRIU binds links)."""
    path = os.path.join(bundle, "config.json")
    with open(path) as file:
        spec: dict[str, Any] = json.load(file)
    lines = ["action-script " + HOLD]
    if not json.load(open(os.path.join(pending, "restore.json"))).get("connections"):
        lines.append("network-lock skip")
    for mount in spec["mounts"]:
        if mount.get("type") == "cgroup":
            lines += cgroup_lines(mount["destination"], spec["linux"].get("cgroupsPath", ""))
        elif os.path.islink(mount.get("source", "")):
            mount["source"] = os.path.realpath(mount["source"])
    keep_sysctls(spec["linux"].get("sysctl") or {}, os.path.join(pending, "sysctls"))
    conf = os.path.join(pending, "criu.conf")
    with open(conf, "w") as file:
        file.write("\n".join(lines) + "\n")
    if os.path.exists(V2):
        # Of the annotation CRIU 4.1 dies.
        os.environ["CRIU_CONFIG_FILE"] = conf
    else:
        # What runc itself says of cgroup mounts gives way to nothing less.
        spec.setdefault("annotations", {})["org.criu.config"] = conf
    temporary = path + ".phaul"
    with open(temporary, "w") as file:
        json.dump(spec, file)
    os.rename(temporary, path)
    return spec


def keep_sysctls(wanted: dict[str, str], path: str) -> None:
    """The network's, for hold.sh to set: CRIU makes the namespace new, and runc sets none in a restore."""
    with open(path, "w") as file:
        for name, value in sorted(wanted.items()):
            if name.startswith("net."):
                file.write("%s=%s\n" % (name.replace(".", "/"), value))
    os.environ["PHAUL_SYSCTLS"] = path


def cgroup_lines(destination: str, cgroups_path: str) -> list[str]:
    """cgroup v1: runc would bind its own cgroup, not the container's, over the container's view."""
    if os.path.exists(V2):
        return []
    parts = cgroups_path.split(":")
    own = "%s/%s-%s.scope" % tuple(parts) if len(parts) == 3 else cgroups_path
    lines = []
    for name in sorted(os.listdir("/sys/fs/cgroup")):
        if name != "unified" and not os.path.islink("/sys/fs/cgroup/" + name):
            lines.append("external mnt[%s/%s]:/sys/fs/cgroup/%s/%s" % (destination, name, name, own.lstrip("/")))
    return lines


def mark(pending: str, account: str) -> None:
    """Write down that the time until now was the account's, for the haul's log."""
    with open(os.path.join(pending, "times"), "a") as file:
        file.write("%s at %.6f\n" % (account, time.time()))


def restore(argv: list[str], verb: int, options: dict[str, str], pending: str) -> int:
    bundle = options.get("--bundle") or options.get("-b") or os.getcwd()
    spec = adapt(bundle, pending)
    with open(os.path.join(pending, "restore.json")) as file:
        wish = json.load(file)
    words = ["restore", "--detach", "--image-path", wish["images"], "--work-path", wish["work"], *wish["switches"]]
    command = [runc(), *argv[:verb], *words, *argv[verb + 1 :]]
    # The container inherits standard input, output and error: they stay what the engine made them.
    pid = os.posix_spawn(command[0], command, os.environ)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    mark(pending, "runc")
    if code:
        return code
    with open(options["--pid-file"]) as file:
        first = int(file.read())
    mend_oom_score(first, spec)
    with open(os.path.join(pending, "restored"), "w") as file:
        file.write(str(first))
    return 0


def freezer(pid: int) -> tuple[str, bool]:
    """(directory of the task's freezer cgroup, whether it is v2)."""
    v2 = os.path.exists(V2)
    with open("/proc/%d/cgroup" % pid) as file:
        for line in file:
            number, controllers, path = line.rstrip("\n").split(":", 2)
            if v2 and number == "0":
                return "/sys/fs/cgroup" + path, True
            if "freezer" in controllers.split(","):
                return "/sys/fs/cgroup/freezer" + path, False
    raise OSError("no freezer cgroup")


def pids_of(directory: str) -> list[int]:
    found: list[int] = []
    for root, _, files in os.walk(directory):
        if "cgroup.procs" in files:
            with open(os.path.join(root, "cgroup.procs")) as file:
                found += map(int, file.read().split())
    return found


def mend_oom_score(first: int, spec: dict[str, Any]) -> None:
    """CRIU leaves a score of 0 alone: such tasks would keep the engine's, out of the OOM killer's reach."""
    wanted = str(spec["process"].get("oomScoreAdj") or 0)
    with open("/proc/self/oom_score_adj") as file:
        inherited = file.read().strip()
    for pid in pids_of(freezer(first)[0]):
        try:
            with open("/proc/%d/oom_score_adj" % pid, "r+") as file:
                if file.read().strip() == inherited:
                    file.seek(0)
                    file.write(wanted)
        except OSError:
            pass


def thaw(directory: str, v2: bool) -> None:
    with open(os.path.join(directory, "cgroup.freeze" if v2 else "freezer.state"), "w") as file:
        file.write("0" if v2 else "THAWED")


def hold(pending: str) -> int:
    """Wait for the word, however often P.Haul itself comes and goes; the exit status for the engine."""
    with open(os.path.join(pending, "restored")) as file:
        directory, v2 = freezer(int(file.read()))
    server = socket.socket(socket.AF_UNIX)
    os.umask(0o177)
    server.bind(os.path.join(pending, "hold.sock"))
    server.listen(4)
    mark(pending, "shim")
    announce(pending)
    while True:
        peer, _ = server.accept()
        peer.settimeout(10)
        try:
            word = peer.recv(32).strip()
            if word == b"ready":
                peer.send(b"held\n")
            elif word == b"release":
                thaw(directory, v2)
                mark(pending, "thaw")
                conclude(pending, "released", peer)
                return 0
            elif word == b"discard":
                kill(pids_of(directory))
                thaw(directory, v2)
                conclude(pending, "discarded", peer)
                return 1
        except OSError:
            continue
        finally:
            peer.close()


def kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass


def conclude(pending: str, how: str, peer: socket.socket) -> None:
    """Write down what was done, and only then say so: whoever hears it may remove the directory."""
    os.rename(os.path.join(pending, "restored"), os.path.join(pending, how))
    try:
        peer.send(how.encode() + b"\n")
    except OSError:
        pass


def announce(pending: str) -> None:
    """Tell who waits on the fifo; nobody may be there."""
    try:
        fifo = os.open(os.path.join(pending, "events"), os.O_WRONLY | os.O_NONBLOCK)
        os.write(fifo, b"held\n")
        os.close(fifo)
    except OSError:
        pass


def main(argv: list[str]) -> int:
    call = parse(argv)
    if call:
        verb, word, container, options = call
        pending = os.path.join(RESTORE, container)
        if word == "create" and os.path.exists(pending + "/restore.json") and not os.path.exists(pending + "/restored"):
            mark(pending, "engine")
            return restore(argv, verb, options, pending)
        if word == "start" and os.path.exists(pending + "/restored"):
            mark(pending, "engine and network")
            return hold(pending)
    os.execv(runc(), ["runc", *argv])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
