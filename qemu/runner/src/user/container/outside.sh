#!/bin/sh
# The host's side: shares everything, starts the container, and mounts something in /run when it is up.
set -e
mount --make-rshared /
mkdir -p /run /mnt
mount -t tmpfs -o mode=755,size=1m run /run
mkdir /run/late
mkfifo /run/up /run/seen
unshare -m --propagation slave /bin/sh /etc/container.sh &
read -r word < /run/up
mount -t tmpfs -o size=64k late /run/late
echo "late but there" > /run/late/file
echo "mounted" > /run/seen
read -r word < /run/up
umount /run/late
echo "unmounted" > /run/seen
wait $!
if grep -q " /mnt " /proc/self/mountinfo; then echo "the host sees the container's root"; exit 1; fi
echo "the host sees nothing of it"
