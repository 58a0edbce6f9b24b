#!/bin/sh
# What the container sees, before the host's mount, with it and after it.
set -e
look() {
    echo "@seen $1"
    cat /proc/self/mountinfo
    echo "@end"
}
look first
echo "up" > /run/up
read -r word < /run/seen
cat /run/late/file
grep -c " /run/late " /proc/self/mountinfo
look late
echo "more" > /run/up
read -r word < /run/seen
if grep -q " /run/late " /proc/self/mountinfo; then echo "the umount did not arrive"; exit 1; fi
look last
ls /
