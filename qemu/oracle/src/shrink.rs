//! Makes a program on which the two differ as short as it gets.

use anyhow::Result;

use crate::Step;
use crate::compare::{Difference, compare};
use crate::linux::Nursery;

/// The shortest program found, and where the two differ in it: pieces are left out, smaller and smaller, as long as there
/// is a difference at all.
///
/// # Errors
/// An executor failed.
pub fn shrink(
    nursery: &Nursery,
    mut program: Vec<Step>,
    mut found: Box<Difference>,
    tasks_max: usize,
) -> Result<(Vec<Step>, Box<Difference>)> {
    loop {
        let length = program.len();
        let tasks = program.iter().filter(|step| step.task != 0).count();
        (program, found) = pass(nursery, program, found, tasks_max)?;
        if program.len() == length && program.iter().filter(|step| step.task != 0).count() == tasks {
            return Ok((program, found));
        }
    }
}

fn pass(
    nursery: &Nursery,
    mut program: Vec<Step>,
    mut found: Box<Difference>,
    tasks_max: usize,
) -> Result<(Vec<Step>, Box<Difference>)> {
    program.truncate(found.at + 1);
    let mut piece = program.len() / 2;
    while piece > 0 {
        let mut shorter = false;
        // The last step is the one that shows it.
        let mut at = program.len().saturating_sub(1 + piece);
        loop {
            let mut fewer = program.clone();
            fewer.drain(at..(at + piece).min(program.len() - 1));
            if fewer.len() < program.len()
                && let Some(difference) = compare(nursery, &fewer, tasks_max)?
            {
                fewer.truncate(difference.at + 1);
                (program, found, shorter) = (fewer, difference, true);
            }
            if at == 0 {
                break;
            }
            at = at.saturating_sub(piece).min(program.len().saturating_sub(1));
        }
        if piece > 1 {
            piece /= 2;
        } else if !shorter {
            break;
        }
    }
    // Who did not need to be somebody else is task 0.
    for at in 0..program.len() {
        if at >= program.len() || program[at].task == 0 {
            continue;
        }
        let mut fewer = program.clone();
        fewer[at].task = 0;
        if let Some(difference) = compare(nursery, &fewer, tasks_max)? {
            fewer.truncate(difference.at + 1);
            (program, found) = (fewer, difference);
        }
    }
    Ok((program, found))
}
