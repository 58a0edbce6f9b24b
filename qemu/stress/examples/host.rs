//! The main job on threads of this host: `host [--seconds N] [--seed N] [--workers N] FILE...`, each file the mountinfo of one
//! namespace. For finding a bug with a debugger at hand; the kernel's run is `cargo xtask run`.

use std::process::ExitCode;

use stress::env::Host;
use stress::forest::{Forest, Namespace};
use stress::job::{self, Job};
use stress::protocol::Message;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, Box<dyn std::error::Error>> {
    let (mut seconds, mut seed, mut workers) = (5, 1, 4);
    let mut namespaces = Vec::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a number"));
        match word.as_str() {
            "--seconds" => seconds = value()?.parse()?,
            "--seed" => seed = value()?.parse()?,
            "--workers" => workers = value()?.parse()?,
            file => {
                let text = std::fs::read(file)?;
                let name = std::path::Path::new(file).file_stem().unwrap_or_default().to_string_lossy();
                namespaces.push(Namespace::read(&name, file, &text)?);
            }
        }
    }
    let forest = Forest::new(namespaces)?;
    let job = Job { seconds, seed };
    let outcome = job::run(&Host::new(workers), &job, &forest)?;
    let clean = outcome.is_clean();
    print!("{}", String::from_utf8_lossy(&Message::Result(outcome).to_line()));
    Ok(clean)
}
