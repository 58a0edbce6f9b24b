//! Shared subtrees: peer groups, slave trees, propagation of mount and umount.
#![no_std]
