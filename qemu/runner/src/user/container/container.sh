#!/bin/sh
# Makes a root of its own and leaves the host's behind, without chroot.
set -e
# What the host mounts arrives so far, everywhere.
mount --make-rprivate /proc
mount -t tmpfs -o mode=755,size=2m root /mnt
cd /mnt
mkdir proc dev run old
for folder in bin etc $FOLDERS; do
    mkdir -p "$folder"
    mount --bind "/$folder" "$folder"
    mount -o remount,bind,ro,nosuid "$folder"
done
mount --rbind /dev dev
mount --rbind /run run
mount --make-rprivate dev
mount --make-rslave run
pivot_root . old
cd /
umount -l /old
rmdir /old
mount -t proc -o nosuid,nodev,noexec proc /proc
exec /bin/sh /etc/inside.sh
