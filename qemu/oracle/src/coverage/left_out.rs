//! Rules of Linux that neither random programs nor case files show, and why.

/// A rule, and what stands in the way.
pub(super) const LEFT_OUT: &[(&str, &str)] = &[
    ("3.1/7", SECURITY),
    ("5.2/8", SECURITY),
    ("6.1/4", SECURITY),
    ("8.8/4", SECURITY),
    ("3.3/6", "no type here takes a block device"),
    ("3.3/11", "no type's root is a symbolic link"),
    ("3.3/14", "the root of an instance that was just made or found has no name to lose"),
    ("3.3/16", MEMORY),
    ("3.8/5", MEMORY),
    ("3.7/6", "nothing freezes a file system here, and there are no block devices"),
    ("5.2/12", "no type here has something to break off"),
    (
        "6.1/14",
        "row 16 refuses the same: only the first mount has no parent, and nothing but itself leads to it",
    ),
    ("7.4/4", "no file leads to the namespace of a detached tree"),
    (
        "O6",
        "programs read from the start: syscalls/tests/mountinfo_files.rs reads on while mounts come and go",
    ),
    ("P4", "one call at a time here: qemu/stress/tests/linearizable.rs makes several"),
    ("I1", CHECKED),
    ("I3", CHECKED),
    ("I4", CHECKED),
    ("I7", CHECKED),
    ("I8", CHECKED),
    ("I9", CHECKED),
    ("I10", CHECKED),
    ("I11", CHECKED),
    ("I12", CHECKED),
    ("S14", INTENDED),
    ("S100", INTENDED),
    ("S121", INTENDED),
    ("S142", INTENDED),
    ("S133", "there are no fanotify events of mounts here"),
];

const SECURITY: &str = "there are no security modules here";
const MEMORY: &str =
    "Linux does not run out of memory when asked: qemu/stress/tests/memory refuses every allocation";
const CHECKED: &str = "an invariant: the checker looks after every step";
const INTENDED: &str = "an intended difference: syscalls/tests/cases/intended shows what happens here";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::LEFT_OUT;
    use crate::coverage::rules;
    use crate::script::Script;

    #[test]
    fn nothing_is_left_out_that_is_shown() {
        let cases = concat!(env!("CARGO_MANIFEST_DIR"), "/../../syscalls/tests/cases");
        let files = std::fs::read_dir(cases).unwrap().map(|entry| entry.unwrap().path());
        let texts = files.filter(|path| path.is_file()).map(|path| std::fs::read_to_string(path).unwrap());
        let scripts = texts.flat_map(|text| Script::parse(&text).unwrap().sections);
        let shown: BTreeSet<String> =
            scripts.flat_map(|section| section.rules).chain(rules::known()).collect();
        let both: Vec<_> = LEFT_OUT.iter().filter(|(rule, _)| shown.contains(*rule)).collect();
        assert!(both.is_empty(), "{both:?}");
    }
}
