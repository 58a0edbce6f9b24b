//! Loom models of the mount table.
