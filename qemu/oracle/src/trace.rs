//! Random programs as one kernel runs them, as text: kernels that agree give the same.
//!
//! The programs are made from what the crates' model answers, so they do not depend on the kernel underneath. A program
//! ends where what is intended here and what Linux 6.18 does part: two models, one of each, are asked first. A step is a
//! line:
//! ```text
//! 3.17 t0$ umount /a                => EBUSY  #0123456789abcdef
//! ```
//! with a hash of what all tasks see and of what the step's task looks up.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::Write;

use anyhow::Result;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::compare::paths;
use crate::generate::{Generator, Limits};
use crate::language::Op;
use crate::linux::Nursery;
use crate::{Answer, Linux, Model, Session};

/// Steps of one program.
const LENGTH: u64 = 80;

/// Writes what the running kernel makes of `ops` steps from `seed`; of program `only` alone, with all that its tasks see,
/// if that is given.
///
/// # Errors
/// The kernel could not be asked, or `out` fails.
pub fn trace(seed: u64, ops: u64, limits: Limits, only: Option<u64>, out: &mut dyn Write) -> Result<()> {
    let nursery = Nursery::on_first()?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut done, mut program) = (0, 0);
    while done < ops {
        program += 1;
        let mut kernel = Session::new(Linux::new(&nursery, limits.tasks)?);
        let (mut model, mut older) = (Session::new(Model::new()?), Session::new(Model::beside_linux()?));
        let mut views = model.views()?;
        let mut generator = Generator::new(limits);
        let mut made = vec![0];
        for at in 1..=LENGTH.min(ops - done) {
            let Some(step) = generator.next(&mut rng, &model, &views) else { break };
            done += 1;
            if !model.has(step.task) {
                continue;
            }
            if let Op::Clone { child, .. } = step.op {
                if made.contains(&child) {
                    continue;
                }
                made.push(child);
            }
            let chains = step.text().strip_prefix("umount ").is_some_and(|words| {
                let target = words.split(' ').next_back().unwrap_or_default();
                model.machine.umount_takes_chains(step.task, target)
            });
            let wanted = model.run(&step)?;
            let same = wanted == older.run(&step)?;
            views = model.views()?;
            if !same
                || views != older.views()?
                || views.0.iter().flatten().flatten().any(|line| line.id == line.parent)
            {
                break;
            }
            if chains && wanted == Answer::BUSY
                || step.text().starts_with("move_mount --set-group") && wanted == Answer::INVALID
            {
                // Linux 6.18 may do it.
                continue;
            }
            generator.done(&step, &wanted);
            let answer = kernel.run(&step)?;
            let seen = kernel.views()?;
            // A look at a mount takes its mark away.
            let marks = step.text().starts_with("umount --expire");
            let looks = if model.has(step.task) && !marks {
                kernel.look(step.task, &paths(&views, step.task))?
            } else {
                Vec::new()
            };
            if only.is_some_and(|only| only != program) {
                continue;
            }
            let text = seen.text();
            let mut hasher = DefaultHasher::new();
            (&text, &looks).hash(&mut hasher);
            writeln!(out, "{program}.{at} {step:<50} => {answer}  #{:016x}", hasher.finish())?;
            if only.is_some() {
                write!(out, "{text}")?;
                looks.iter().try_for_each(|line| writeln!(out, "    {line}"))?;
            }
        }
        out.flush()?;
    }
    Ok(())
}
