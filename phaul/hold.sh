#!/bin/sh
# CRIU calls this at points of a restore (criu(8), --action-script).
#   setup-namespaces: connections inside the container need its loopback before their sockets come,
#   and listening sockets the limits that the container's sysctls set. Where sockets are bound to the container's
#   addresses, a device with these is made, and what keeps its traffic back until the release. The first task is
#   there now: the runtime is told of it, so that the engine makes the network; it must not yet where that device
#   is in its place. CRIU, which runc started inside the container's cgroup, begins to leave it: that takes the
#   kernel a while, in which CRIU works on.
#   pre-resume: everything is restored, nothing has run. The container's cgroup is frozen now, without CRIU and
#   this script in it, so that CRIU lets go of tasks that stay still. The engine's network comes in the place of
#   that device.
# The fifo is opened both ways: nobody may read from it any more, where the engine died.
set -eu

# CRIU may be in the container's cgroup namespace (criu_inside.pl), where nothing else can be reached, nor named.
host=/proc/1/ns/cgroup
[ "$(readlink /proc/self/ns/cgroup)" = "$(readlink $host)" ] || exec nsenter --cgroup=$host "$0"

# $1's cgroup directory that can be frozen, as $found.
find_cgroup() {
    while IFS=: read -r number controllers path; do
        if [ "$v2" = yes ]; then [ "$number" = 0 ] || continue; else [ "$controllers" = freezer ] || continue; fi
        found=$root$path
        return
    done < "/proc/$1/cgroup"
    exit 1
}

if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    v2=yes root=/sys/fs/cgroup file=cgroup.freeze word=1
else
    v2=no root=/sys/fs/cgroup/freezer file=freezer.state word=FROZEN
fi

pending=${PHAUL_FIRST%/*}

case $CRTOOLS_SCRIPT_ACTION in
setup-namespaces)
    echo "$PPID" > "$root/cgroup.procs" &
    # The host's own loopback is up already, and a container may have no ip command: the host's is used.
    if [ -s "$PHAUL_SYSCTLS" ]; then
        # /proc/sys/net is that of the network namespace of who opens it.
        nsenter -t "$CRTOOLS_INIT_PID" -n sh -ec \
            'ip link set lo up; while IFS="=" read -r name value; do echo "$value" >"/proc/sys/$name"; done' \
            <"$PHAUL_SYSCTLS"
    else
        nsenter -t "$CRTOOLS_INIT_PID" -n ip link set lo up
    fi
    [ ! -e "$pending/rules" ] || nsenter -t "$CRTOOLS_INIT_PID" -n nft -f - <"$pending/rules"
    if [ -e "$pending/early" ]; then
        nsenter -t "$CRTOOLS_INIT_PID" -n ip -batch - <"$pending/early"
    else
        echo "$CRTOOLS_INIT_PID" 1<> "$PHAUL_FIRST"
    fi
    ;;
pre-resume)
    find_cgroup "$CRTOOLS_INIT_PID"
    own=$found
    [ "$own" != "$root" ] && [ "$own" != "$root/" ]
    echo "$own" > "$pending/cgroup"
    for pid in "$PPID" self; do
        find_cgroup "$pid"
        # It may not have been done before this began.
        if [ "$found" = "$own" ]; then
            for each in "$PPID" $$; do echo "$each" > "$root/cgroup.procs"; done
        fi
    done
    echo "$word" > "$own/$file"
    if [ -e "$pending/early" ]; then
        nsenter -t "$CRTOOLS_INIT_PID" -n ip link delete phaul0
        echo "$CRTOOLS_INIT_PID" 1<> "$PHAUL_FIRST"
    fi
    ;;
esac
