//! What scripts of calls cannot say: layouts, faults at each argument, phases of contexts, and what happens at the end of
//! files.

mod contexts;
mod costs;
mod detached;
mod faults;
mod kernel;
mod layouts;
mod private;
mod writers;
