#!/bin/sh
# The initrd's /init: the disk is virtio's, ext4 and PCI are built into the kernel.
busybox=/bin/busybox
$busybox mount -t devtmpfs dev /dev
$busybox mount -t proc proc /proc
$busybox insmod /modules/virtio_blk.ko
while [ ! -b /dev/vda ]; do $busybox usleep 50000; done
$busybox mount -t ext4 -o rw,noatime /dev/vda /new || exec /bin/sh
$busybox umount /proc
$busybox mount -o move /dev /new/dev
exec $busybox switch_root /new /sbin/init
