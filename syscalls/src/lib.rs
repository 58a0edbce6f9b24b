//! The Linux mount ABI over a small trait for the kernel around it.
//!
//! [`mountinfo`] is the text side of it: the lines of `/proc/PID/mountinfo`.
#![no_std]

extern crate alloc;

pub mod mountinfo;
