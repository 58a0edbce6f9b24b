//! Hands the linker its script, and refuses to build without the flags that the script relies on.

fn main() {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernel.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    println!("cargo::rerun-if-changed=link.sh");
    println!("cargo::rustc-link-arg-bins=-T{}", script.display());

    // A RUSTFLAGS variable replaces what .cargo/config.toml says, and the kernel would not boot.
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let bare_metal = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    if bare_metal && !flags.contains("relocation-model=static") {
        println!("cargo::error=the kernel needs the rustflags of .cargo/config.toml; unset RUSTFLAGS");
    }
}
