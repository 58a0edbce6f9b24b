//! Lists and runs the models; see the library's header.

#[cfg(loom)]
fn main() -> std::process::ExitCode {
    use loom_tests::{harness, selftest};
    harness::main(selftest::models(), selftest::plant)
}

#[cfg(not(loom))]
fn main() {
    eprintln!("this build has no models; run `cargo xtask loom`");
}
