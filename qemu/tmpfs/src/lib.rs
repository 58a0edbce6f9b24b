//! An in-memory file system with a lock-free dentry cache.
#![no_std]
