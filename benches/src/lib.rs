//! Adapters of the peers that the benches compare with.
