"""What the deciding line of CRIU's, runc's or the engine's log means for who reads it: a cause, and what to do.

Each line is found by words that its program has kept for long; what stands in them is put into the
sentence. Sources: criu/*.c and soccr/*.c of CRIU 3.17 to 4.2, libcontainer of runc, daemon/ of moby.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from phaul.streams import printable


@dataclass(frozen=True)
class Diagnosis:
    """Two sentences: why it failed, and the remedy."""

    cause: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.cause} {self.remedy}"


# Words of the line, the cause, the remedy; {0} and so on are the line's groups. The first that fits holds.
TABLE: tuple[tuple[str, str, str], ...] = (
    (
        r"Can't dump file \S+ of that type .*io_uring|io_uring",
        "A program in it uses io_uring, which CRIU cannot save.",
        "Turn it off there (redis: io-threads and liburing, node: UV_USE_IO_URING=0), or refuse it by seccomp.",
    ),
    (
        r"Can't dump file (\S+) of that type \[\w+\] \((?:chr|blk)\S* (\S+)\)",
        "Descriptor {0} of a program in it is a device ({1}), whose state CRIU cannot save.",
        "Run it without that device, or close it before the haul.",
    ),
    (
        r"Can't dump file (\S+) of that type \[\w+\] \((.+)\)",
        "Descriptor {0} of a program in it is of a kind that CRIU cannot save ({1}).",
        "Close it before the haul.",
    ),
    (
        r"dangling tty|Can't (?:find|collect) .*tty|tty: .*(?:no master|ctl tty)",
        "A program in it has a terminal whose other end is outside of the container.",
        "Start the container without -t, and end docker attach and docker exec -t.",
    ),
    (
        r"[Ss]ession leader of (\d+)\((\d+)\) is outside of its pid namespace",
        "Process {1} in it was started from outside (docker exec, nsenter): it has no session leader there.",
        "End it before the haul; docker top shows it as {0}.",
    ),
    (
        r"[Ff]ile (\S+) has bad (?:size|mode|build-ID)",
        "The file {0} is another one at the target than the one that the programs have open.",
        "Make the file the same on both hosts: a bind mount is copied with --copy-binds, the image by its digest.",
    ),
    (
        r"Can't bind inet socket",
        "A socket in it is bound to an address or port that the target cannot give.",
        "Give the container's network the same subnet there, free the port, or let programs listen on 0.0.0.0.",
    ),
    (
        r"In-flight connection|in.flight",
        "A connection was just arriving, which no program had accepted yet.",
        "Try again; where clients come without end, hold them back for a moment.",
    ),
    (
        r"Connected TCP socket",
        "A program in it has an established connection.",
        "Close it before the haul, or say with --tcp what is to become of it.",
    ),
    (
        r"Can't dump half of stream unix connection|External socket is used|name-less external socket",
        "A program in it is connected through a Unix socket to one outside of the container.",
        "End that connection before the haul: what is at its other end cannot move.",
    ),
    (
        r"The socket has data to read|netlink: .*data",
        "A netlink socket of a program in it has words of this host's kernel that nobody has read yet.",
        "Try again; they are there for a moment only.",
    ),
    (
        r"(?:SCTP|DCCP|AF_VSOCK|Unsupported|BUG! Unknown) (?:proto|socket|family)|[Ss]ocket type .*not supported",
        "A program in it has a socket of a kind that CRIU cannot save.",
        "Close it before the haul.",
    ),
    (
        r"doesn't have a proper root mount|has unreachable sharing|unreachable (?:master|slave)",
        "A mount in it comes from outside in a way that CRIU cannot make again.",
        "Mount it as a volume or a private bind mount (bind-propagation=rprivate).",
    ),
    (
        r"FS mnt \S+ dev \S+ root \S+ unsupported|unsupported fs|Unsupported mount",
        "A file system of a kind that CRIU cannot save is mounted in it.",
        "Unmount it before the haul: docker exec, mount shows it.",
    ),
    (
        r"Can't dump ghost file (\S+) of (\d+) size",
        "A program in it has a removed file open which is too large to go with it ({1} bytes).",
        "Let it close {0} before the haul.",
    ),
    (
        r"(?:link[-_]remap|Can't create link-remap|Can't link remap)",
        "A program in it has a removed file open that still has another name.",
        "Let it close the file before the haul, or stop those that remove it.",
    ),
    (
        r"(?:fsnotify|inotify|fanotify).*(?:[Hh]andle|path|resolve)|Can't find suitable path for handle",
        "A program in it watches a file (inotify) whose name CRIU cannot find.",
        "Let it watch by another way (polling) before the haul.",
    ),
    (
        r"[Aa]pp[Aa]rmor|lsm: .*(?:write|profile)|can't write lsm profile",
        "The security profile that confines it is not at the target.",
        "Load it there (apparmor_parser -r), or run the container with a profile that both hosts have.",
    ),
    (
        r"[Ss][Ee][Ll]inux",
        "SELinux at the target does not let it be restored with its label.",
        "Install the policy there (container-selinux), or look at ausearch -m avc there.",
    ),
    (
        r"cpu: .*(?:mismatch|not present|required)|CPU (?:capabilities|features|instruction)",
        "It uses features of this host's processor that the target's has not.",
        "Move it to a host with the same or a newer processor.",
    ),
    (
        r"seccomp",
        "Its seccomp filter could not be carried to the target.",
        "Compare CRIU's and the kernel's versions on both hosts (criu check --feature seccomp).",
    ),
    (
        r"[Nn]ested (?:pid|user) namespace|Can't dump nested",
        "A program in it has made namespaces of its own (docker in docker, bubblewrap, a browser's sandbox).",
        "End it before the haul.",
    ),
    (
        r"Can't seize (?:task|thread) (\d+)|(?:PTRACE_SEIZE|ptrace).*(?:Operation not permitted|EPERM)",
        "Something else traces a program in it, or forbids that it is traced.",
        "Detach the debugger (strace, gdb), and look at kernel.yama.ptrace_scope on the source.",
    ),
    (
        r"Can't get rlimit|CAP_SYS_RESOURCE",
        "CRIU may not read the limits of a program that runs as another user than root.",
        "Let P.Haul run with all capabilities of root (CAP_SYS_RESOURCE is missing here).",
    ),
    (
        r"Can't get 1:16 opt|sockopt.*TCP|Can't get \d+:\d+ opt",
        "CRIU is too old for this kernel: it knows its sockets no more.",
        "Install CRIU 4.2 or newer on the source.",
    ),
    (
        r"userfaultfd|[Uu]ffd|lazy-pages: .*(?:not|[Uu]nable)",
        "Memory cannot be restored lazily there: userfaultfd is missing, or not allowed.",
        "Set vm.unprivileged_userfaultfd=1 there, or use --mode stopcopy.",
    ),
    (
        r"iptables|nft(?:ables)?|[Ll]ocking network|network.lock",
        "CRIU could not hold the container's connections back.",
        "Install the package nftables (or iptables) there; nf_tables must be in the kernel.",
    ),
    (
        r"No space left on device|ENOSPC|Disk quota exceeded",
        "A disk is full.",
        "Make room in /var/lib/phaul and in the engine's directory on both hosts.",
    ),
    (
        r"Cannot allocate memory|ENOMEM|[Oo]ut of memory|\boom\b",
        "There is not enough memory.",
        "Free some at the target, or give the container a higher --memory there.",
    ),
    (
        r"[Pp]id \d+ (?:mismatch|already)|Can't fork.*File exists|Unable to (?:create|fork).*pid|last_pid",
        "A process id that it has is taken at the target.",
        "Try again; for a process without a container, end the one there that has its id.",
    ),
    (
        r"Can't open (?:file )?(\S+?)(?: on restore)?: No such file|Can't open file (\S+)",
        "The file {0} that its programs have open is not at the target.",
        "Put it there: a bind mount is copied with --copy-binds.",
    ),
    (
        r"cgroupd?|Can't mk?dir .*cgroup|cg: ",
        "CRIU could not put its tasks into their cgroups.",
        "Compare the cgroup versions of both hosts, and the engine's cgroup driver (docker info).",
    ),
    (
        r"Timeout reached|Try to interrupt",
        "CRIU could not stop a program in it in time: it waits in the kernel, for a disk or a network file system.",
        "See which (ps -eo pid,stat,wchan,comm shows D), and try again.",
    ),
    (
        r"/proc/0/ns/net|bind-mount /proc/\S*/ns",
        "The engine there restored it without P.Haul's runtime.",
        "Run p.haul-service setup at the target.",
    ),
    (
        r"unknown or invalid runtime|OCI runtime .*not found|runtime .*does not exist",
        "The engine there does not know P.Haul's runtime.",
        "Run p.haul-service setup at the target.",
    ),
    (
        r"port is already allocated|address already in use|Bind for \S+ failed",
        "A port that it publishes is taken at the target.",
        "Free it there (ss -ltnp shows who has it).",
    ),
    (
        r"\b[Aa][Ii][Oo]\b",
        "A program in it has asynchronous disk requests under way.",
        "Try again.",
    ),
)
_COMPILED = tuple((re.compile(words), cause, remedy) for words, cause, remedy in TABLE)


# CRIU's and runc's lines are shorter. Programs choose names in them: a search must not go over much again and again.
MAX_LINE = 1000


def of(line: str) -> Diagnosis | None:
    """What the line means; None: it is not known."""
    for words, cause, remedy in _COMPILED:
        if found := words.search(line[:MAX_LINE]):
            groups = [printable(group or "") for group in found.groups()]
            return Diagnosis(cause.format(*groups), remedy.format(*groups))
    return None


def told(action: str, line: str) -> tuple[str, str]:
    """A sentence, and the line for those who want to know more: it is in the sentence where nothing better is known."""
    known, line = of(line), printable(line)
    return (f"{action}. {known}", f"It said: {line}") if known else (f"{action}: {line}", "")
