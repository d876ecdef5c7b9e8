#!/usr/bin/python3 -IS
"""The OCI runtime `phaul`: runc, except for a container that P.Haul is about to restore.

The engine calls it as it calls runc. Where /run/phaul/restore/<id>/restore.json exists, `create`
becomes `runc restore`, goes as far as it can without images, and waits for P.Haul's "restore" on wait.sock.
As soon as there is a first task (and, where hold.sh makes them, what sockets need) it returns: the engine
makes the network while CRIU goes on. `start` waits for CRIU, and keeps the frozen tasks until P.Haul says
"start" on hold.sock: the engine takes them for started then, and P.Haul thaws them when it has. "ready" is answered
with "held". "discard" ends all of it on either socket.
Standard library only, and little of it: its start is part of the downtime.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

RESTORE = "/run/phaul/restore"
HOLD = os.path.join(os.path.dirname(os.path.realpath(__file__)), "hold.sh")
INSIDE = os.path.join(os.path.dirname(HOLD), "criu_inside.pl")
V2 = "/sys/fs/cgroup/cgroup.controllers"
VERBS = ("create", "start", "kill", "delete")
SHUT_SECONDS = 0.02
MS_REMOUNT, MS_RELATIME = 32, 1 << 21
KEPT_FLAGS = os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_SYNCHRONOUS | os.ST_NOATIME
VALUED = "--root --log --log-format --criu --rootless --bundle -b --pid-file --console-socket --preserve-fds".split()


def parse(argv: list[str]) -> tuple[int, str, str, dict[str, str]] | None:
    """(index of the verb, its word, container id, options by name), or None for a call that is runc's alone."""
    options: dict[str, str] = {}
    index, verb, container = 0, None, ""
    while index < len(argv):
        word = argv[index]
        if word in VALUED and index + 1 < len(argv):
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
        else:
            container = container or word
        index += 1
    return None if verb is None else (verb, argv[verb], container, options)


def installed(name: str) -> str:
    for directory in (*os.environ.get("PATH", "").split(":"), "/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin"):
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK):
            return path
    sys.exit("phaul runtime: %s is not installed" % name)


def read(*path: str) -> str:
    with open(os.path.join(*path)) as file:
        return file.read()


def write(text: str, *path: str) -> None:
    with open(os.path.join(*path), "w") as file:
        file.write(text)


def adapt(bundle: str, pending: str) -> dict[str, Any]:
    """Change the bundle for a restore: CRIU's configuration, and mount sources without symlinks (CRIU binds links)."""
    path = os.path.join(bundle, "config.json")
    spec: dict[str, Any] = json.loads(read(path))
    lines = ["action-script " + HOLD]
    for mount in spec["mounts"]:
        if mount.get("type") == "cgroup":
            lines += cgroup_lines(mount["destination"], spec["linux"].get("cgroupsPath", ""))
        elif os.path.islink(mount.get("source", "")):
            mount["source"] = os.path.realpath(mount["source"])
    keep_sysctls(spec["linux"].get("sysctl") or {}, os.path.join(pending, "sysctls"))
    conf = os.path.join(pending, "criu.conf")
    write("\n".join(lines) + "\n", conf)
    if os.path.exists(V2):
        # Of the annotation CRIU 4.1 dies.
        os.environ["CRIU_CONFIG_FILE"] = conf
    else:
        # What runc itself says of cgroup mounts gives way to nothing less.
        spec.setdefault("annotations", {})["org.criu.config"] = conf
    if {"type": "cgroup"} in spec["linux"]["namespaces"]:
        enter_cgroup(os.path.join(pending, "bin"))
    write(json.dumps(spec), path + ".phaul")
    os.rename(path + ".phaul", path)
    return spec


def keep_sysctls(wanted: dict[str, str], path: str) -> None:
    """The network's, for hold.sh to set: CRIU makes the namespace new, and runc sets none in a restore."""
    lines = ["%s=%s\n" % (name.replace(".", "/"), wanted[name]) for name in sorted(wanted) if name.startswith("net.")]
    write("".join(lines), path)
    os.environ["PHAUL_SYSCTLS"] = path


def enter_cgroup(programs: str) -> None:
    """Have runc start CRIU in the container's cgroup namespace."""
    os.mkdir(programs, 0o700)
    os.environ["PHAUL_CRIU"] = installed("criu")
    os.symlink(INSIDE, os.path.join(programs, "criu"))
    os.environ["PATH"] = programs + ":" + os.environ.get("PATH", "")


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
    """Everything until the first task is there; a process of its own follows the rest."""
    bundle = options.get("--bundle") or options.get("-b") or os.getcwd()
    spec = adapt(bundle, pending)
    write(bundle, pending, "bundle")
    wish = json.loads(read(pending, "restore.json"))
    gate = Gate(wish["images"], wish["work"])
    words = ["restore", "--detach", "--image-path", gate.path, "--work-path", wish["work"], *wish["switches"]]
    command = [installed("runc"), *argv[:verb], *words, *argv[verb + 1 :]]
    os.environ["PHAUL_FIRST"] = fifo = os.path.join(pending, "first")
    os.mkfifo(fifo, 0o600)
    first = os.open(fifo, os.O_RDWR)  # both ways, so that neither end of it waits for the other
    restorer, ended = begin(command, pending, options["--pid-file"], spec, first)
    # While the tasks still run at the source: it takes a good part of what `refresh` does.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    word = awaited(pending)
    if word == b"discard":
        gate.tell("", ended)
        os.waitpid(restorer, 0)
        return 1
    mark(pending, "word")
    refresh(libc, spec["root"]["path"])
    gate.open(ended)
    return early(first, ended, restorer, options["--pid-file"], pending)


class Gate:
    """A directory for the images, at which runc waits: what it reads before it starts CRIU is a fifo there."""

    NAME = "descriptors.json"

    def __init__(self, images: str, work: str) -> None:
        self.images, self.path = images, os.path.join(work, "images")
        os.mkdir(self.path, 0o700)
        os.mkfifo(os.path.join(self.path, self.NAME), 0o600)

    def open(self, ended: int) -> None:
        """The images are there."""
        for name in os.listdir(self.images):
            if name != self.NAME:
                os.link(os.path.join(self.images, name), os.path.join(self.path, name))
        self.tell(read(self.images, self.NAME), ended)

    def tell(self, words: str, ended: int) -> None:
        """Of nothing it gives up. It may not be here yet: what is in a fifo that nobody reads is lost on closing."""
        pause = 0.0
        while not select.select([ended], [], [], pause)[0]:
            pause = SHUT_SECONDS
            try:
                fifo = os.open(os.path.join(self.path, self.NAME), os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                continue
            os.write(fifo, words.encode())
            os.close(fifo)
            return


def begin(command: list[str], pending: str, pid_file: str, spec: dict[str, Any], ours: int) -> tuple[int, int]:
    """Start what follows runc to its end: (its pid, a descriptor that becomes readable as it ends).

    Who waits for the lock waits for that end too. The descriptor `ours` is not its own.
    """
    lock = os.open(os.path.join(pending, "lock"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    ended, theirs = os.pipe()
    child = os.fork()
    if child:
        os.close(theirs)
        return child, ended
    try:
        for descriptor in (ours, ended):
            os.close(descriptor)
        follow(command, pending, pid_file, spec)
    finally:
        os._exit(1)


def follow(command: list[str], pending: str, pid_file: str, spec: dict[str, Any]) -> NoReturn:
    # The container inherits standard input, output and error: they stay what the engine made them.
    pid = os.posix_spawn(command[0], command, os.environ)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    mark(pending, "runc")
    if code == 0:
        mend_oom_score(pending, spec)
        write(str(int(read(pid_file))), pending, "restored.new")
        os.rename(os.path.join(pending, "restored.new"), os.path.join(pending, "restored"))
    os._exit(code)


def awaited(pending: str) -> bytes:
    """P.Haul's word, when all that can be done before it is done."""
    with socket.socket(socket.AF_UNIX) as server:
        os.umask(0o177)
        server.bind(os.path.join(pending, "wait.sock"))
        server.listen(4)
        mark(pending, "engine")
        announce(pending, b"poised\n")
        while True:
            peer, _ = server.accept()
            with peer:
                peer.settimeout(10)
                try:
                    word = peer.recv(32).strip()
                    if word.startswith((b"restore", b"discard")):
                        peer.send(word + b"\n")
                        return word
                except OSError:
                    continue


def refresh(libc: Any, root: str) -> None:
    """Files came into the upper directory beneath the mounted root: what was seen before may not be remembered.

    A remount drops each name that nobody uses (shrink_dcache_sb in fs/super.c), a new mode what is known of the root.
    """
    import ctypes

    flags = os.statvfs(root).f_flag
    kept = flags & KEPT_FLAGS | (MS_RELATIME if flags & os.ST_RELATIME else 0)
    if libc.mount(None, root.encode(), None, ctypes.c_ulong(MS_REMOUNT | kept), None):
        sys.exit("phaul runtime: %s cannot be mounted anew: %s" % (root, os.strerror(ctypes.get_errno())))
    os.chmod(root, os.stat(root).st_mode & 0o7777)


def early(first: int, ended: int, restorer: int, pid_file: str, pending: str) -> int:
    """Wait for the first task, and tell all of it; or for the end of a restore that failed before."""
    ready, _, _ = select.select([first, ended], [], [])
    if first not in ready:
        return os.waitstatus_to_exitcode(os.waitpid(restorer, 0)[1]) or 1
    pid = int(os.read(first, 32))
    write(str(pid), pending, "task")
    write(str(pid), pid_file)
    announce(pending, b"first\n")
    return 0


def held_cgroup(pending: str) -> str:
    """The freezer's, which hold.sh froze. A task that ends says (cgroup v1) that it is in the root, as the host."""
    return read(pending, "cgroup").strip()


def pids_of(directory: str) -> list[int]:
    pids: list[int] = []
    for root, _, _ in os.walk(directory):
        try:
            pids += map(int, read(root, "cgroup.procs").split())
        except OSError:  # systemd removes what is empty, at any moment
            pass
    return pids


def mend_oom_score(pending: str, spec: dict[str, Any]) -> None:
    """CRIU leaves a score of 0 alone: such tasks would keep the engine's, out of the OOM killer's reach."""
    wanted = str(spec["process"].get("oomScoreAdj") or 0)
    inherited = read("/proc/self/oom_score_adj")
    for pid in pids_of(held_cgroup(pending)):
        score = "/proc/%d/oom_score_adj" % pid
        try:
            if read(score) == inherited:
                write(wanted, score)
        except OSError:
            pass


def hold(pending: str) -> int:
    """Wait for CRIU, and for the word, however often P.Haul itself comes and goes; the exit status for the engine."""
    lock = os.open(os.path.join(pending, "lock"), os.O_WRONLY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not is_there(pending):
        print("phaul runtime: the restore failed, or the first task has ended", file=sys.stderr)
        give_up(pending)
        return 1
    server = socket.socket(socket.AF_UNIX)
    os.umask(0o177)
    server.bind(os.path.join(pending, "hold.sock"))
    server.listen(4)
    mark(pending, "shim")
    announce(pending, b"held\n")
    while True:
        peer, _ = server.accept()
        peer.settimeout(10)
        try:
            word = peer.recv(32).strip()
            if word == b"ready":
                peer.send(b"held\n")
            elif word == b"start":
                peer.send(b"started\n")
                return 0
            elif word == b"discard":
                give_up(pending)
                os.rename(os.path.join(pending, "restored"), os.path.join(pending, "discarded"))
                return 1  # which ends the connection, for an answer
        except OSError:
            continue
        finally:
            peer.close()


def is_there(pending: str) -> bool:
    """Whether the first task is restored, and lives."""
    try:
        return os.path.exists("/proc/%d" % int(read(pending, "restored")))
    except OSError:
        return False


def give_up(pending: str) -> None:
    """What is frozen neither ends, nor can the engine remove it; what has ended has no cgroup any more, perhaps."""
    try:
        directory = held_cgroup(pending)
        kill(pids_of(directory))
        word, file = ("0", "cgroup.freeze") if os.path.exists(V2) else ("THAWED", "freezer.state")
        write(word, directory, file)
    except OSError:
        pass


def kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass


def announce(pending: str, word: bytes) -> None:
    """Tell who waits on the fifo; nobody may be there."""
    try:
        fifo = os.open(os.path.join(pending, "events"), os.O_WRONLY | os.O_NONBLOCK)
        os.write(fifo, word)
        os.close(fifo)
    except OSError:
        pass


def main(argv: list[str]) -> int:
    call = parse(argv)
    if call:
        verb, word, container, options = call
        pending = os.path.join(RESTORE, container)
        there = os.listdir(pending) if os.path.isdir(pending) else []
        if word == "create" and "restore.json" in there and "lock" not in there:
            return restore(argv, verb, options, pending)
        if word == "start" and "lock" in there:
            mark(pending, "engine and network")
            return hold(pending)
        if word == "kill" and argv[-1] == "9" and "task" in there and not {"restored", "released"} & {*there}:
            # By an engine that cannot go on: runc knows nothing of a container before it is restored, and would not.
            kill([int(read(pending, "task"))])
            return 0
        if word == "delete" and "lock" in there and "released" not in there:
            # The first task ended before the engine could start it, and so nobody holds it.
            give_up(pending)
    os.execv(installed("runc"), ["runc", *argv])


if __name__ == "__main__":
    # Tidying up an interpreter takes milliseconds, in which the engine waits.
    os._exit(main(sys.argv[1:]))
