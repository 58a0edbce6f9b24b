//! Lists and runs the models; see the library's header.

#[cfg(loom)]
#[global_allocator]
static ALLOCATOR: loom_tests::quarantine::Quarantine = loom_tests::quarantine::Quarantine::new();

#[cfg(loom)]
fn main() -> std::process::ExitCode {
    loom_tests::harness::main(loom_tests::models(), loom_tests::plant)
}

#[cfg(not(loom))]
fn main() {
    eprintln!("this build has no models; run `cargo xtask loom`");
}
