//! A copy of the registry's loom that explores every order it should.
//!
//! Loom 0.7.2 decides which orders to try by remembering, per atomic, one access only: the latest. In the shape of
//! every compare-and-swap loop (one thread loads, another loads and then stores) the second thread's own load hides the
//! first thread's, and "load after the store" is never tried. It also runs a `SeqCst` fence in one piece with the
//! operation before it, so two fences come in every order only where those operations happen to. Both leave a model
//! green that never saw its bug.
//!
//! [`prepare`] takes the source that cargo already fetched, applies [`EDITS`] to a copy below `target/`, and returns its
//! folder; `paths = [...]` in cargo's configuration then puts the copy in place of loom for every crate of the build,
//! crossbeam-epoch's included, and leaves `Cargo.lock` alone. Nothing of loom's source is kept in this repository: an
//! edit is our own text and a short anchor that must occur exactly as often as stated, or the build stops.
//!
//! # What the edits do
//! 1. `[Loads]` An atomic keeps its last store (or read-modify-write) and the loads since that store which no later one
//!    is ordered after; at most one per thread. A store depends on all of them, a load on the last store alone. This is
//!    the plain rule of dynamic partial order reduction: loads are independent of each other, so one place is too few.
//! 2. `[Fences]` A `SeqCst` fence is an operation of its own, dependent on every other one, so the scheduler can run
//!    another thread's between an access and the fence after it.
//! 3. `[TryLock]` Unlocking a mutex is an operation too, dependent on every `try_lock`, and a thread about to call
//!    `try_lock` is not blocked by somebody else's lock; as released, no model ever sees `try_lock` fail that way.
//! 4. `[EveryOrder]` With `LOOM_EVERY_ORDER` set no reduction is done at all: each runnable thread is tried at each
//!    step. Too slow for models, but it is the reference that random small programs are compared with.
//! 5. `[Room]` The stack of a modelled thread grows from 32 to 256 KiB; the shipping code is not written for 32.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// The only release the edits were written and checked for.
const LOOM_VERSION: &str = "0.7.2";

/// One replacement in one file of loom.
struct Edit {
    file: &'static str,
    /// Text that must occur exactly `times` times.
    anchor: &'static str,
    times: usize,
    with: &'static str,
}

/// Our correction; the module header says why each part is there.
#[rustfmt::skip] // one edit, one block
const EDITS: &[Edit] = &[
    // A dependency from a folder is not spared our compiler's warnings, as one from the registry is.
    Edit { file: "src/lib.rs", times: 1,
        anchor: "#![deny(missing_debug_implementations, missing_docs, rust_2018_idioms)]",
        with: "#![allow(warnings)]" },
    // [Loads]: the state of an atomic.
    Edit { file: "src/rt/atomic.rs", times: 1,
        anchor: "    last_access: Option<Access>,",
        with: "    loads_since_store: Vec<Access>," },
    Edit { file: "src/rt/atomic.rs", times: 1,
        anchor: "            last_access: None,",
        with: "            loads_since_store: Vec::new()," },
    Edit { file: "src/rt/atomic.rs", times: 1,
        anchor: "            _ => self.last_access.as_ref(),",
        with: "            _ => self.last_non_load_access.as_ref()," },
    Edit { file: "src/rt/atomic.rs", times: 1,
        anchor: "        Access::set_or_create(&mut self.last_access, path_id, version);",
        with: "" },
    Edit { file: "src/rt/atomic.rs", times: 1,
        anchor: "            Action::Load => {}",
        with: "            Action::Load => {
                self.loads_since_store.retain(|load| !load.happens_before(version));
                self.loads_since_store.push(Access::new(path_id, version));
            }" },
    Edit { file: "src/rt/atomic.rs", times: 1,
        anchor: "                // Stores / RMWs",
        with: "                self.loads_since_store.clear();" },
    Edit { file: "src/rt/atomic.rs", times: 1,
        anchor: "    /// Returns the last dependent access",
        with: "    /// The loads that an operation depends on besides the last store.
    pub(super) fn dependent_loads(&self, action: Action) -> &[Access] {
        match action {
            Action::Load => &[],
            Action::Store | Action::Rmw => &self.loads_since_store,
        }
    }

    /// Returns the last dependent store" },
    // [Loads]: the scheduler asks for all of them, when it looks for races and when it joins versions.
    Edit { file: "src/rt/object.rs", times: 1,
        anchor: "    pub(super) fn last_dependent_access(&self, operation: Operation)",
        with: "    /// Every access that `operation` may race with.
    pub(super) fn dependent_accesses(&self, operation: Operation) -> impl Iterator<Item = &Access> + '_ {
        let (last, loads): (_, &[Access]) = match &self.entries[operation.obj.index] {
            Entry::Atomic(entry) => {
                let action = operation.action.into();
                ([entry.last_dependent_access(action), None], entry.dependent_loads(action))
            }
            Entry::Mutex(entry) => (entry.dependent_accesses(operation.action), &[]),
            _ => ([self.last_dependent_access(operation), None], &[]),
        };
        IntoIterator::into_iter(last).flatten().chain(loads) // edition 2018
    }

    fn last_dependent_access(&self, operation: Operation)" },
    Edit { file: "src/rt/execution.rs", times: 2,
        anchor: "if let Some(access) = self.objects.last_dependent_access(operation) {",
        with: "for access in self.objects.dependent_accesses(operation) {" },
    // [Fences]: one object per execution that every SeqCst fence acts on.
    Edit { file: "src/rt/atomic.rs", times: 1,
        anchor: "/// Implements atomic fence behavior",
        with: "/// Stands for the total order of the `SeqCst` fences; each depends on all others.
#[derive(Debug, Default)]
pub(super) struct FenceOrder {
    last_fence: Option<Access>,
}

impl FenceOrder {
    fn branch(location: Location) {
        let order = rt::execution(|execution| {
            let existing = execution.objects.iter_ref::<FenceOrder>().next();
            existing.unwrap_or_else(|| execution.objects.insert(FenceOrder::default()))
        });
        order.branch_opaque(location);
    }

    pub(super) fn last_dependent_access(&self) -> Option<&Access> {
        self.last_fence.as_ref()
    }

    pub(super) fn set_last_access(&mut self, path_id: usize, version: &VersionVec) {
        Access::set_or_create(&mut self.last_fence, path_id, version);
    }
}

/// Implements atomic fence behavior" },
    Edit { file: "src/rt/atomic.rs", times: 1,
        anchor: "pub(crate) fn fence(ordering: Ordering) {",
        with: "pub(crate) fn fence(ordering: Ordering) {
    if ordering == Ordering::SeqCst {
        FenceOrder::branch(location!());
    }" },
    Edit { file: "src/rt/object.rs", times: 1,
        anchor: "    Cell(rt::cell::State),",
        with: "    Cell(rt::cell::State),

    // The order of the `SeqCst` fences
    FenceOrder(rt::atomic::FenceOrder)," },
    Edit { file: "src/rt/object.rs", times: 1,
        anchor: "            Entry::Mutex(entry) => entry.last_dependent_access(),",
        with: "            Entry::Mutex(entry) => entry.last_dependent_access(),
            Entry::FenceOrder(entry) => entry.last_dependent_access()," },
    Edit { file: "src/rt/object.rs", times: 1,
        anchor: "            Entry::Mutex(entry) => entry.set_last_access(path_id, dpor_vv),",
        with: "            Entry::Mutex(entry) => entry.set_last_access(operation.action, path_id, dpor_vv),
            Entry::FenceOrder(entry) => entry.set_last_access(path_id, dpor_vv)," },
    // [TryLock]
    Edit { file: "src/rt/object.rs", times: 1,
        anchor: "    /// Generic action with no specialized dependencies on access.",
        with: "    /// Attempt to lock a mutex
    TryLock,

    /// Release of a mutex
    Unlock,

    /// Generic action with no specialized dependencies on access." },
    Edit { file: "src/rt/mutex.rs", times: 1,
        anchor: "    last_access: Option<Access>,",
        with: "    last_access: Option<Access>,
    last_try: Option<Access>,
    last_unlock: Option<Access>," },
    Edit { file: "src/rt/mutex.rs", times: 1,
        anchor: "                last_access: None,",
        with: "                last_access: None,
                last_try: None,
                last_unlock: None," },
    Edit { file: "src/rt/mutex.rs", times: 1,
        anchor: "        self.state.branch_opaque(location);",
        with: "        self.state.branch_action(object::Action::TryLock, location);" },
    Edit { file: "src/rt/mutex.rs", times: 1,
        anchor: "    pub(crate) fn release_lock(&self) {",
        with: "    pub(crate) fn release_lock(&self) {
        // No thread is active while a deadlock is being reported.
        if super::execution(|execution| execution.threads.is_active()) {
            self.state.branch_action(object::Action::Unlock, location!());
        }" },
    Edit { file: "src/rt/mutex.rs", times: 1,
        anchor: "                    if operation.object() == self.state.erase() {",
        with: "                    let blocks = operation.action() != object::Action::TryLock;
                    if blocks && operation.object() == self.state.erase() {" },
    Edit { file: "src/rt/mutex.rs", times: 1,
        anchor: "    pub(crate) fn last_dependent_access(&self)",
        with: "    /// A lock waits for the unlock before it, so these two are never both possible and need no race.
    pub(super) fn dependent_accesses(&self, action: object::Action) -> [Option<&Access>; 2] {
        match action {
            object::Action::TryLock => [self.last_access.as_ref(), self.last_unlock.as_ref()],
            object::Action::Unlock => [self.last_try.as_ref(), None],
            _ => [self.last_access.as_ref(), None],
        }
    }

    pub(crate) fn last_dependent_access(&self)" },
    Edit { file: "src/rt/mutex.rs", times: 1,
        anchor: "    pub(crate) fn set_last_access(&mut self, path_id: usize, version: &VersionVec) {",
        with: "    pub(super) fn set_last_access(&mut self, action: object::Action, path_id: usize, version: &VersionVec) {
        match action {
            object::Action::TryLock => Access::set_or_create(&mut self.last_try, path_id, version),
            object::Action::Unlock => {
                Access::set_or_create(&mut self.last_unlock, path_id, version);
                return;
            }
            _ => {}
        }" },
    // [EveryOrder]
    Edit { file: "src/rt/execution.rs", times: 1,
        anchor: "                    Thread::Skip",
        with: "                    if every_order() { Thread::Pending } else { Thread::Skip }" },
    Edit { file: "src/rt/execution.rs", times: 1,
        anchor: "#[derive(Debug, Eq, PartialEq, Hash, Clone, Copy)]",
        with: "/// Whether to try each runnable thread at each step, instead of those that some race asks for.
fn every_order() -> bool {
    static EVERY_ORDER: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *EVERY_ORDER.get_or_init(|| std::env::var_os(\"LOOM_EVERY_ORDER\").is_some())
}

#[derive(Debug, Eq, PartialEq, Hash, Clone, Copy)]" },
    // [Room]: counted in words.
    Edit { file: "src/rt/scheduler.rs", times: 1,
        anchor: "None => Gn::new(body),",
        with: "None => Gn::new_opt(0x8000, body)," },
];

/// Writes the corrected loom below `target` and returns its folder.
///
/// `manifest` is the `Cargo.toml` of the package as cargo unpacked it, `version` its version. Files that already have
/// the wanted text are not written again, so an unchanged copy is not rebuilt.
///
/// # Errors
/// If loom is of another version, or an anchor does not occur as often as it should.
pub(crate) fn prepare(manifest: &Path, version: &str, target: &Path) -> Result<PathBuf> {
    ensure!(
        version == LOOM_VERSION,
        "loom {version} is in Cargo.lock, but the correction in loom_fix.rs is for {LOOM_VERSION}: check whether {version} \
         still skips orders (the canary says so), then adapt or drop the edits"
    );
    let from = manifest.parent().context("loom's manifest has no folder")?;
    for edit in EDITS {
        ensure!(
            from.join(edit.file).is_file(),
            "loom {version} has no {}; loom_fix.rs does not fit it",
            edit.file
        );
    }
    let to = target.join("loom-sound").join(format!("loom-{version}"));
    copy_edited(from, from, &to)?;
    Ok(to)
}

/// Copies `folder`, which is `root` or lies below it, to the same place below `to`, with the edits applied.
fn copy_edited(root: &Path, folder: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let relative = path.strip_prefix(root)?;
        if path.is_dir() {
            copy_edited(root, &path, to)?;
        } else if path.extension().is_some_and(|ext| ext == "rs") || relative == Path::new("Cargo.toml") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            write_if_changed(&to.join(relative), &edited(relative, text)?)?;
        }
    }
    Ok(())
}

/// Returns the text of loom's file `name` with our edits.
fn edited(name: &Path, mut text: String) -> Result<String> {
    for edit in EDITS.iter().filter(|edit| Path::new(edit.file) == name) {
        let found = text.matches(edit.anchor).count();
        if found != edit.times {
            bail!(
                "loom {LOOM_VERSION}, {}: expected {} of `{}`, found {found}; loom_fix.rs does not fit this source",
                edit.file,
                edit.times,
                edit.anchor.trim(),
            );
        }
        text = text.replace(edit.anchor, edit.with);
    }
    Ok(text)
}

fn write_if_changed(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let folder = path.parent().context("a file without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_that_occurs_too_often_or_never_is_an_error_with_the_version() {
        let name = Path::new("src/rt/scheduler.rs");
        let twice = "None => Gn::new(body), None => Gn::new(body),";
        for (text, found) in [("", "found 0"), (twice, "found 2")] {
            let error = edited(name, text.to_owned()).unwrap_err().to_string();
            assert!(error.contains(LOOM_VERSION) && error.contains(found), "{error}");
        }
        assert!(edited(name, "None => Gn::new(body),".to_owned()).unwrap().contains("new_opt"));
    }

    #[test]
    fn another_release_is_refused() {
        let error = prepare(Path::new("loom/Cargo.toml"), "0.8.0", Path::new("target")).unwrap_err();
        assert!(error.to_string().contains("loom 0.8.0"));
    }

    #[test]
    fn a_file_without_edits_is_copied_as_it_is() {
        assert_eq!(edited(Path::new("src/thread.rs"), "mod rt;".to_owned()).unwrap(), "mod rt;");
    }
}
