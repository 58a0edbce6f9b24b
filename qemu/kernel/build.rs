//! Hands the linker its script.

fn main() {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernel.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    println!("cargo::rerun-if-changed=link.sh");
    println!("cargo::rustc-link-arg-bins=-T{}", script.display());
}
