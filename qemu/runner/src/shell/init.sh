#!/bin/sh
# The first process of `cargo xtask shell`.
export PATH=/bin HOME=/root TERM="${TERM:-linux}"
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
hostname mounts
cd /root || exit
# With a session and a terminal of its own, so that the shell has job control.
setsid -c sh -l
poweroff -f
