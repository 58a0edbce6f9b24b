//! What the benches measure with: namespaces over tmpfs, the peers' adapters, churn, rounds and the table of ratios.
//!
//! | module | what |
//! |---|---|
//! | [`namespace`] | a mount namespace of its own over a tmpfs of its own |
//! | [`file_systems`] | the instances that `mount(2)` mounts |
//! | [`keys`] | the order in which dependent lookups go through a hash |
//! | [`peers`] | other hash maps, keyed as the mount hash is |
//! | [`churn`] | a change made again and again on another thread |
//! | [`rate`] | how many changes per second threads make side by side |
//! | [`receivers`] | masters with few slaves or many |
//! | [`scaling`] | what two writers reach together |
//! | [`contest`] | what is compared, measured in turns |
//! | [`spread`] | a median and its quartiles |
//! | [`table`] | the ratios, in plain text |
//! | [`machine`] | where it ran |
#![forbid(unsafe_code)]

pub mod churn;
pub mod contest;
pub mod file_systems;
pub mod keys;
pub mod machine;
pub mod namespace;
pub mod peers;
pub mod rate;
pub mod receivers;
pub mod scaling;
pub mod spread;
pub mod table;
