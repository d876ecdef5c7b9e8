#!/bin/sh
# Name and addresses, as the kernel's command line says: lab.name=NAME lab.ip=ADDRESS
# eth0 leads to the other machines, eth1 to the machine that emulates this one.
set -eu
for word in $(cat /proc/cmdline); do
    case $word in
    lab.name=*) name=${word#*=} ;;
    lab.ip=*) address=${word#*=} ;;
    esac
done
hostname "$name"
echo "$name" >/etc/hostname
modprobe virtio_net
until [ -e /sys/class/net/eth0 ] && [ -e /sys/class/net/eth1 ]; do sleep 0.1; done
ip link set lo up
ip address replace "$address/24" dev eth0
ip link set eth0 up
ip address replace 10.0.2.15/24 dev eth1
ip link set eth1 up
sysctl -qw fs.pipe-max-size=16777216
