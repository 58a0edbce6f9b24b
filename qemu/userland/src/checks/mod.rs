//! What programs ask of a kernel beside mounts: small checks, each a function in a process of its own.
//!
//! They say what Linux does. Debian's kernel, on which they run as well, is the control.

mod files;
mod limits;
mod log;
mod pidfds;
mod processes;
mod scheduling;
mod time_namespaces;
mod timers;

use anyhow::Result;

use crate::sys;

/// A title and what is checked. An error says what was wrong.
type Check = (&'static str, fn() -> Result<()>);

const ALL: [&[Check]; 8] = [
    files::ALL,
    limits::ALL,
    log::ALL,
    pidfds::ALL,
    processes::ALL,
    scheduling::ALL,
    time_namespaces::ALL,
    timers::ALL,
];

/// A check that takes longer is ended by a signal.
const SECONDS_MAX: u32 = 30;

/// Runs all checks, or those whose titles contain `only`. Prints each that fails.
pub(crate) fn run(only: &str) -> Result<bool> {
    let (mut count, mut failed) = (0, 0);
    for (title, check) in ALL.into_iter().flatten().filter(|(title, _)| title.contains(only)) {
        count += 1;
        let child = sys::fork(|| {
            sys::alarm(SECONDS_MAX);
            match check() {
                Ok(()) => 0,
                Err(error) => {
                    println!("FAILED {title}: {error:#}");
                    1
                }
            }
        })?;
        match sys::wait(child) {
            Some((_, 0)) => {}
            Some((_, 1)) => failed += 1,
            ended => {
                println!("FAILED {title}: ended by a signal, {ended:?}");
                failed += 1;
            }
        }
    }
    println!("@checks {count} checks, {failed} failures");
    Ok(failed == 0 && count != 0)
}
