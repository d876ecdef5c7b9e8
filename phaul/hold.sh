#!/bin/sh
# CRIU calls this at points of a restore (criu(8), --action-script).
#   setup-namespaces: connections inside the container need its loopback before their sockets come,
#   and listening sockets the limits that the container's sysctls set.
#   pre-resume: everything is restored, nothing has run. The container's cgroup is frozen now, with CRIU and
#   this script moved out of it (runc started CRIU inside), so that CRIU lets go of tasks that stay still.
set -eu

freeze() {
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        root=/sys/fs/cgroup
        own=$root$(sed -n 's/^0:://p' "/proc/$CRTOOLS_INIT_PID/cgroup")
        file=$own/cgroup.freeze word=1
    else
        root=/sys/fs/cgroup/freezer
        own=$root$(sed -n 's/^[0-9]*:freezer://p' "/proc/$CRTOOLS_INIT_PID/cgroup")
        file=$own/freezer.state word=FROZEN
    fi
    [ "$own" != "$root" ] && [ "$own" != "$root/" ]
    for pid in $$ "$PPID"; do echo "$pid" > "$root/cgroup.procs"; done
    echo "$word" > "$file"
}

case $CRTOOLS_SCRIPT_ACTION in
setup-namespaces)
    # The host's own loopback is up already, and a container may have no ip command: the host's is used.
    [ -s "$PHAUL_SYSCTLS" ] || exec nsenter -t "$CRTOOLS_INIT_PID" -n ip link set lo up
    # /proc/sys/net is that of the network namespace of who opens it.
    exec nsenter -t "$CRTOOLS_INIT_PID" -n sh -ec \
        'ip link set lo up; while IFS="=" read -r name value; do echo "$value" >"/proc/sys/$name"; done' \
        <"$PHAUL_SYSCTLS"
    ;;
pre-resume)
    freeze
    ;;
esac
