//! Runs one model under loom and reports the set of outcomes that its executions had.
//!
//! The program is started once per run, by name, because a panic inside a modelled thread leaves loom's state unusable:
//! the first panic prints the result and ends the process.
//!
//! ```text
//! loom-tests list                       one line per model
//! loom-tests run MODEL [bug=B] [bound=N] one result line
//! loom-tests litmus SEED COUNT          one line per random program: its outcomes
//! ```
//! Lines are fields separated by tabs; the runner reads them.

use std::collections::BTreeSet;
use std::process::{ExitCode, exit};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// Which build a model belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Models of loom itself; they show that the explorer is complete.
    Canary,
    /// Models of this harness; they show that a bug is reported, and that a missed one is.
    Harness,
    /// Shipping code over the model reclaimer.
    Structure,
    /// Shipping code over the real crossbeam-epoch.
    Lifetime,
}

/// What one execution of a model came to, in a word or two.
pub type Outcome = String;

/// One model: a small program, the outcomes it must have, and the bugs it must catch.
pub struct Model {
    name: &'static str,
    layer: Layer,
    bound: Option<usize>,
    hunt: Option<usize>,
    branches_max: usize,
    expected: BTreeSet<Outcome>,
    bugs: Vec<&'static str>,
    harmless: Vec<&'static str>,
    body: Box<dyn Fn() -> Outcome + Send + Sync>,
}

/// Starts the description of a model. Without [`bound`](ModelBuilder::bound) it is explored exhaustively.
pub fn model(layer: Layer, name: &'static str) -> ModelBuilder {
    ModelBuilder(Model {
        name,
        layer,
        bound: None,
        hunt: None,
        branches_max: 10_000,
        expected: BTreeSet::new(),
        bugs: Vec::new(),
        harmless: Vec::new(),
        body: Box::new(Outcome::new),
    })
}

/// A [`Model`] being described.
pub struct ModelBuilder(Model);

impl ModelBuilder {
    /// Explores only executions with at most this many preemptions.
    pub fn bound(mut self, preemptions_max: usize) -> Self {
        self.0.bound = Some(preemptions_max);
        self
    }

    /// Looks for the planted bugs with this bound, which may be far quicker than the model's own.
    pub fn hunt(mut self, preemptions_max: usize) -> Self {
        self.0.hunt = Some(preemptions_max);
        self
    }

    /// States the set of outcomes. Reaching more fails the model, and so does reaching fewer.
    pub fn expect_outcomes<const N: usize>(mut self, outcomes: [&str; N]) -> Self {
        self.0.expected = outcomes.map(str::to_owned).into();
        self
    }

    /// Names the planted bugs that must fail this model.
    pub fn planted<const N: usize>(mut self, bugs: [&'static str; N]) -> Self {
        self.0.bugs = bugs.into();
        self
    }

    /// Names switches that change nothing a reader can see: the runner must report them as not caught.
    pub fn harmless<const N: usize>(mut self, switches: [&'static str; N]) -> Self {
        self.0.harmless = switches.into();
        self
    }

    /// Gives the program: its body runs once per execution, on the main thread, and returns the outcome.
    pub fn run(mut self, body: impl Fn() -> Outcome + Send + Sync + 'static) -> Model {
        self.0.body = Box::new(body);
        self.0
    }
}

/// Turns a planted bug of the shipping code on, or all off, before any execution starts.
pub type Plant = fn(Option<&'static str>);

/// The program: see the module header for its arguments.
pub fn main(models: Vec<Model>, plant: Plant) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["list"] => list(&models),
        ["run", name, ref options @ ..] => match Choice::parse(models, name, options) {
            Ok(choice) => run(choice, plant),
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::from(2);
            }
        },
        ["litmus", seed, count] => match (seed.parse(), count.parse()) {
            (Ok(seed), Ok(count)) => crate::litmus::print(seed, count),
            _ => {
                eprintln!("litmus: seed and count are numbers");
                return ExitCode::from(2);
            }
        },
        _ => {
            eprintln!("usage: loom-tests list | run MODEL [bug=B] [bound=N] | litmus SEED COUNT");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn list(models: &[Model]) {
    for model in models {
        let bound = |bound: Option<usize>| bound.map_or("-".to_owned(), |bound| bound.to_string());
        println!(
            "model\t{}\t{}\t{}\t{}\t{}\t{}",
            model.name,
            format!("{:?}", model.layer).to_lowercase(),
            bound(model.bound),
            bound(model.hunt.or(model.bound)),
            model.bugs.join(","),
            model.harmless.join(","),
        );
    }
}

/// One run, as asked for on the command line.
struct Choice {
    model: Model,
    bug: Option<&'static str>,
    bound: Option<usize>,
}

impl Choice {
    fn parse(models: Vec<Model>, name: &str, options: &[&str]) -> Result<Self, String> {
        let model =
            models.into_iter().find(|model| model.name == name).ok_or(format!("no model `{name}`"))?;
        let mut choice = Choice { bug: None, bound: model.bound, model };
        for option in options {
            match option.split_once('=') {
                Some(("bug", bug)) => {
                    let mut known = choice.model.bugs.iter().chain(&choice.model.harmless);
                    choice.bug =
                        Some(known.find(|known| **known == bug).ok_or(format!("{name} has no bug `{bug}`"))?);
                    choice.bound = choice.model.hunt.or(choice.model.bound);
                }
                Some(("bound", "-")) => choice.bound = None,
                Some(("bound", bound)) => {
                    choice.bound = Some(bound.parse().map_err(|_| format!("`{bound}` is no bound"))?);
                }
                _ => return Err(format!("`{option}` is neither bug= nor bound=")),
            }
        }
        Ok(choice)
    }
}

/// What a run has found so far. Plain `std` types: loom must not see them.
struct Progress {
    started: Instant,
    executions: AtomicU64,
    reported: AtomicBool,
    reached: Mutex<BTreeSet<Outcome>>,
}

static PROGRESS: OnceLock<Progress> = OnceLock::new();

impl Progress {
    fn reached(&self) -> MutexGuard<'_, BTreeSet<Outcome>> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints the result line, once, and ends the process.
    fn report(&self, verdict: &str, note: &str) -> ! {
        if !self.reported.swap(true, Relaxed) {
            // Relaxed: one thread runs everything.
            let executions = self.executions.load(Relaxed);
            let millis = self.started.elapsed().as_millis();
            let reached: Vec<String> = self.reached().iter().cloned().collect();
            let note: String = note.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
            println!("result\t{verdict}\t{executions}\t{millis}\t{}\t{note}", reached.join("|"));
        }
        exit(0)
    }
}

fn run(choice: Choice, plant: Plant) {
    let Choice { model, bug, bound } = choice;
    let progress = PROGRESS.get_or_init(|| Progress {
        started: Instant::now(),
        executions: AtomicU64::new(0),
        reported: AtomicBool::new(false),
        reached: Mutex::new(BTreeSet::new()),
    });
    // The first panic is the finding. Unwinding through modelled threads would only bury it.
    std::panic::set_hook(Box::new(|info| {
        if std::env::var_os("LOOM_BT").is_some() {
            eprintln!("{}", std::backtrace::Backtrace::force_capture());
        }
        let message = info.payload_as_str().unwrap_or("a panic without a message");
        // A relative path is our own source; the line where loom noticed a race says nothing.
        let place = info.location().filter(|place| !place.file().starts_with('/'));
        let place = place.map_or(String::new(), |place| format!(" ({}:{})", place.file(), place.line()));
        progress.report("panic", &format!("{}{place}", message.trim()));
    }));
    plant(bug);

    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = bound;
    builder.max_branches = model.branches_max;
    // A limit that stops early and passes has no place here; the runner has a clock.
    builder.max_duration = None;
    builder.max_permutations = None;
    let expected = model.expected.clone();
    builder.check(move || {
        progress.executions.fetch_add(1, Relaxed); // Relaxed: statistics.
        let outcome = (model.body)();
        let allowed = model.expected.contains(&outcome);
        let mut reached = progress.reached();
        if !reached.contains(&outcome) {
            reached.insert(outcome.clone());
        }
        drop(reached);
        if !allowed {
            progress.report("unexpected", &format!("outcome `{outcome}` is not in the expected set"));
        }
    });

    let missing: Vec<String> = expected.difference(&progress.reached()).cloned().collect();
    if missing.is_empty() {
        progress.report("pass", "");
    }
    progress.report("missing", &format!("never reached: {}", missing.join("|")));
}
