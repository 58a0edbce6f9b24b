//! The Linux mount ABI over a small trait for the kernel around it.
#![no_std]
