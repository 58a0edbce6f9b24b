//! The main job: rebuild real mount trees and stress them on all CPUs.
//!
//! - [`forest`]: the input, several namespaces as mountinfo records; its checks, its image, the plan to rebuild it;
//! - [`compare`]: the input beside what the kernel prints back;
//! - [`pods`]: a generated node with any number of containers;
//! - [`protocol`]: what the kernel and the runner say to each other.
#![no_std]

extern crate alloc;

pub mod compare;
pub mod forest;
pub mod pods;
pub mod protocol;
