#!/bin/sh
# host.sh BASE WORK PROJECT TOOLS PYCACHE HOSTNAME HIERARCHY...
# Runs as the first process of a host's new namespaces: lays out its root and becomes its init.
# HIERARCHY is TYPE:OPTIONS:DIRECTORY, each mounted at /sys/fs/cgroup/DIRECTORY ("" for a pure v2 machine).
set -eu
base=$1 work=$2 project=$3 tools=$4 pycache=$5 name=$6
shift 6

mount -t tmpfs -o size=90%,mode=755 phaul-lab "$work"
mkdir "$work/upper" "$work/work" "$work/root" "$work/docker"
mount -t overlay -o "lowerdir=$base,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
cd "$work/root"

mount -t proc proc proc
mount -t sysfs sysfs sys
for hierarchy in "$@"; do
    type=${hierarchy%%:*} rest=${hierarchy#*:}
    options=${rest%%:*} directory=${rest#*:}
    if [ -n "$directory" ] && ! mountpoint -q sys/fs/cgroup; then
        mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup
    fi
    mkdir -p "sys/fs/cgroup/$directory"
    mount -t "$type" ${options:+-o "$options"} cgroup "sys/fs/cgroup/$directory"
    # A v2 namespace's root may not both have processes and hand controllers to its children.
    [ -n "$directory" ] || echo 1 >sys/fs/cgroup/lab-init/cgroup.procs
done

mount -t tmpfs -o mode=755 dev dev
mkdir dev/pts dev/shm dev/mqueue dev/net
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t mqueue mqueue dev/mqueue
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mknod -m 666 dev/fuse c 10 229
userfaultfd=$(sed -n 's/ userfaultfd$//p' /proc/misc)
[ -z "$userfaultfd" ] || mknod -m 600 dev/userfaultfd c 10 $userfaultfd
mknod -m 666 dev/net/tun c 10 200
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr

mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mkdir -p var/lib/docker opt/phaul opt/lab srv/shared var/cache/pycache run/lock old
# overlay2 cannot have another overlay as its upper layer
mount --bind "$work/docker" var/lib/docker
for bound in "$project:opt/phaul" "$tools:opt/lab"; do
    mount --bind "${bound%:*}" "${bound##*:}"
    mount -o remount,bind,ro "${bound##*:}"
done
mount --bind "$pycache" var/cache/pycache
# What the hosts of an instance share, as by a network file system.
mount --bind "$work/../shared" srv/shared
ln -sf /opt/phaul/p.haul usr/local/bin/p.haul
ln -sf /opt/phaul/p.haul-service usr/local/bin/p.haul-service

hostname "$name"
echo "$name" > etc/hostname
# Straight onto the overlay: with a stacked bind mount containers would see the machine's root.
pivot_root . old
cd /
umount -l /old
rmdir /old
echo ready
exec /opt/lab/init >/dev/null 2>&1 </dev/null
