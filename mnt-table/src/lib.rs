//! A lock-free concurrent mount table with RCU-style lookup.
#![no_std]
