//! Mounts of a namespace by unique id, for questions: statmount(2), and listings that go on where they stopped.
//!
//! Changes keep no index, so they cost what they cost without one. The first question after a change makes it, and those
//! that follow find it: whoever asks about all mounts one by one pays for it once.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::dentry::Dentry;
use crate::list::Slot;
use crate::mount::Mount;
use crate::namespace::MntNamespace;
use crate::write_set::WriteSet;

/// The index of one generation of a namespace.
#[derive(Default)]
pub(crate) struct ById {
    generation: Option<u64>,
    /// Ascending.
    slots: Vec<(u64, Slot)>,
}

impl<D: Dentry> WriteSet<D> {
    /// Makes the index of `ns`, if it is not there: [`WriteSet::mounts_from`] and [`WriteSet::mount_by_id`] begin at once
    /// where they have to. Without memory there is none.
    ///
    /// Context: holds `ns`.
    pub fn make_index(&mut self, ns: &MntNamespace<D>) {
        let generation = ns.generation();
        let state = self.namespace_mut(ns);
        if state.by_id.generation == Some(generation) {
            return;
        }
        let mut slots = core::mem::take(&mut state.by_id).slots;
        slots.clear();
        if slots.try_reserve(state.order.len()).is_ok() {
            slots.extend(state.order.iter().map(|(slot, mount)| (mount.unique_id(), slot)));
            state.by_id = ById { generation: Some(generation), slots };
        }
    }

    /// The mounts of `ns` from the unique id `first` on, in order. Without an index it looks at those before them.
    ///
    /// Context: holds `ns`.
    pub fn mounts_from(
        &self,
        ns: &MntNamespace<D>,
        first: u64,
    ) -> impl Iterator<Item = &Arc<Mount<D>>> + Clone {
        let state = self.namespace(ns);
        let start = if state.by_id.generation == Some(ns.generation()) {
            let slots = &state.by_id.slots;
            slots.get(slots.partition_point(|(id, _)| *id < first)).map(|(_, slot)| *slot)
        } else {
            state.order.iter().find(|(_, mount)| mount.unique_id() >= first).map(|(slot, _)| slot)
        };
        core::iter::successors(start, |slot| state.order.next(*slot)).map(|slot| state.order.get(slot))
    }

    /// The mount of `ns` with the unique id `id`.
    ///
    /// Context: as [`WriteSet::mounts_from`].
    pub fn mount_by_id(&self, ns: &MntNamespace<D>, id: u64) -> Option<&Arc<Mount<D>>> {
        self.mounts_from(ns, id).next().filter(|mount| mount.unique_id() == id)
    }
}
