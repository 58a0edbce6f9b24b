//! The names of descriptors that a task knows.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

/// What a descriptor is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A place, perhaps a detached tree.
    Tree,
    /// A directory that was opened.
    File,
    /// A file that is open for writing.
    Plain,
    /// What fsopen and fspick return.
    Context,
    /// A mount namespace.
    Namespace,
    /// A user namespace.
    Users,
    /// A task.
    Process,
    /// mountinfo and its like.
    Listing,
    /// No descriptor but the id of a mount.
    Mount,
    /// No descriptor but the id of a mount namespace.
    NamespaceId,
}

/// The names that a task knows.
#[derive(Clone, Default)]
pub(super) struct Names {
    known: Vec<(String, Kind)>,
    made: usize,
}

impl Names {
    /// A new name.
    pub(super) fn add(&mut self, kind: Kind) -> String {
        self.made += 1;
        let letter = match kind {
            Kind::Tree => 't',
            Kind::File => 'f',
            Kind::Plain => 'w',
            Kind::Context => 'c',
            Kind::Namespace => 'n',
            Kind::Users => 'u',
            Kind::Process => 'p',
            Kind::Listing => 'm',
            Kind::Mount => 'i',
            Kind::NamespaceId => 'k',
        };
        let name = format!("{letter}{}", self.made);
        self.known.push((name.clone(), kind));
        name
    }

    /// All names of these kinds.
    pub(super) fn all(&self, kinds: &[Kind]) -> impl Iterator<Item = &str> {
        self.known.iter().filter(|(_, kind)| kinds.contains(kind)).map(|(name, _)| name.as_str())
    }

    /// A name of one of these kinds.
    pub(super) fn any(&self, rng: &mut SmallRng, kinds: &[Kind]) -> Option<String> {
        let fit: Vec<_> = self.known.iter().filter(|(_, kind)| kinds.contains(kind)).collect();
        fit.choose(rng).map(|(name, _)| name.clone())
    }

    /// Forgets the name that the operation `text` was to set, or has closed.
    pub(super) fn forget(&mut self, text: &str) {
        let set = text.strip_prefix(['@', '%']).and_then(|rest| rest.split_once(" = ")).map(|(name, _)| name);
        let name = set.or_else(|| text.strip_prefix("close @"));
        self.known.retain(|(known, _)| Some(known.as_str()) != name);
    }
}
