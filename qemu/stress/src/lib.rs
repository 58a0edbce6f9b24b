//! The main job: rebuild real mount trees and stress them on all CPUs.
//!
//! - [`forest`]: the input, several namespaces as mountinfo records; its checks, its image, the plan to rebuild it;
//! - [`compare`]: the input beside what the kernel prints back;
//! - [`pods`]: a generated node with any number of containers;
//! - [`protocol`]: what the kernel and the runner say to each other;
//! - [`world`]: the forest made real;
//! - [`job`]: the whole run over the [`mod@env`] of a kernel or a host: [`arena`]s in every namespace, [`lookups`] that check
//!   what they find, [`changes`] of every kind.
#![no_std]

#[cfg(feature = "std")]
extern crate std;

extern crate alloc;

pub mod arena;
pub mod changes;
pub mod compare;
pub mod env;
pub mod forest;
pub mod job;
pub mod lookups;
pub mod pods;
pub mod protocol;
pub mod world;
