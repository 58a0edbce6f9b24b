//! User namespaces, as far as mounts depend on them: who owns a mount namespace or a superblock, how many mount
//! namespaces may be owned, and which ids an id-mapped mount shows.
//!
//! A [`UserNs`] is a handle; the initial user namespace needs no memory. Which capabilities a task has in one is for the
//! `syscalls` crate to say.
//!
//! Sources: user_namespaces(7), namespaces(7) on `user.max_mnt_namespaces`.

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::Ordering;

use crate::list::NoMemory;
use crate::memory;
use crate::sync::plain::{AtomicU32, AtomicU64, Mutex};

/// A range of ids: `count` of them, from `inside` in the user namespace and from `outside` in its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// The first id in the parent.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The uid and gid ranges of a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMaps {
    /// `/proc/PID/uid_map`.
    pub uids: Arc<[IdRange]>,
    /// `/proc/PID/gid_map`.
    pub gids: Arc<[IdRange]>,
}

/// What a user namespace is told once: its maps, and whether its members may call setgroups(2).
struct Settings {
    uids: Option<Arc<[IdRange]>>,
    gids: Option<Arc<[IdRange]>>,
    setgroups: bool,
}

/// Why a user namespace does not take what it is told: `EPERM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It was told before.
    Again,
    /// setgroups(2) can be forbidden before the groups are mapped only, and allowed again never.
    Setgroups,
}

/// A user namespace. Two handles are equal if they are of the same one.
#[derive(Clone)]
pub struct UserNs(Option<Arc<Inner>>);

struct Inner {
    parent: UserNs,
    level: u32,
    /// The effective uid of its creator, as the initial user namespace numbers it.
    owner: u32,
    id: u64,
    mount_namespaces: AtomicU32,
    mount_namespaces_max: AtomicU32,
    settings: Mutex<Settings>,
}

/// A user namespace may not own one more mount namespace: `ENOSPC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// Why there is no user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChild {
    /// `ENOSPC`: too many levels.
    TooMany,
    /// `ENOMEM`.
    NoMemory,
}

impl From<NoMemory> for NoChild {
    fn from(NoMemory: NoMemory) -> Self {
        NoChild::NoMemory
    }
}

/// Levels of user namespaces below the initial one.
const LEVELS_MAX: u32 = 33;

static IDS: AtomicU64 = AtomicU64::new(1);

impl UserNs {
    /// The one that the machine starts with.
    pub const INITIAL: UserNs = UserNs(None);

    /// A user namespace below `self`, made by somebody with the effective uid `owner`.
    ///
    /// # Errors
    /// [`NoChild`].
    pub fn child(&self, owner: u32) -> Result<UserNs, NoChild> {
        let level = self.level() + 1;
        if level > LEVELS_MAX {
            return Err(NoChild::TooMany);
        }
        Ok(UserNs(Some(memory::arc(Inner {
            parent: self.clone(),
            level,
            owner,
            // Relaxed: a number.
            id: IDS.fetch_add(1, Ordering::Relaxed),
            mount_namespaces: AtomicU32::new(0),
            mount_namespaces_max: AtomicU32::new(u32::MAX),
            settings: Mutex::new(Settings { uids: None, gids: None, setgroups: self.setgroups() }),
        })?)))
    }

    /// Whether this is the initial one.
    pub fn is_initial(&self) -> bool {
        self.0.is_none()
    }

    /// The parent; `None` for the initial one.
    pub fn parent(&self) -> Option<&UserNs> {
        self.0.as_deref().map(|inner| &inner.parent)
    }

    /// How far it is below the initial one.
    pub fn level(&self) -> u32 {
        self.0.as_deref().map_or(0, |inner| inner.level)
    }

    /// The effective uid of its creator; 0 for the initial one.
    pub fn owner(&self) -> u32 {
        self.0.as_deref().map_or(0, |inner| inner.owner)
    }

    /// A number that no other has; 0 for the initial one.
    pub fn id(&self) -> u64 {
        self.0.as_deref().map_or(0, |inner| inner.id)
    }

    /// Whether it is `above` or below it.
    pub fn is_within(&self, above: &UserNs) -> bool {
        core::iter::successors(Some(self), |at| at.parent()).any(|at| at == above)
    }

    /// The ids that it maps; `None` until some are set, and for the initial one, which maps every id to itself.
    pub fn maps(&self) -> Option<IdMaps> {
        let settings = self.0.as_deref()?.settings.lock();
        if settings.uids.is_none() && settings.gids.is_none() {
            return None;
        }
        let or_none = |ranges: &Option<Arc<[IdRange]>>| ranges.clone().unwrap_or_default();
        Some(IdMaps { uids: or_none(&settings.uids), gids: or_none(&settings.gids) })
    }

    /// Sets the ids that it maps, whatever it was told before.
    pub fn set_maps(&self, maps: IdMaps) {
        if let Some(inner) = self.0.as_deref() {
            let mut settings = inner.settings.lock();
            (settings.uids, settings.gids) = (Some(maps.uids), Some(maps.gids));
        }
    }

    /// Whether the uids that it maps are set; always for the initial one.
    pub fn has_uids(&self) -> bool {
        self.0.as_deref().is_none_or(|inner| inner.settings.lock().uids.is_some())
    }

    /// Whether the gids that it maps are set; always for the initial one.
    pub fn has_gids(&self) -> bool {
        self.0.as_deref().is_none_or(|inner| inner.settings.lock().gids.is_some())
    }

    /// Sets the uids that it maps (`/proc/PID/uid_map`).
    ///
    /// # Errors
    /// `EPERM`: they are set.
    pub fn set_uids(&self, uids: Arc<[IdRange]>) -> Result<(), Refused> {
        let mut settings = self.0.as_deref().ok_or(Refused::Again)?.settings.lock();
        if settings.uids.is_some() {
            return Err(Refused::Again);
        }
        settings.uids = Some(uids);
        Ok(())
    }

    /// Sets the gids that it maps (`/proc/PID/gid_map`).
    ///
    /// # Errors
    /// `EPERM`: they are set. With `without_setgroups`, also that setgroups(2) is allowed there.
    pub fn set_gids(&self, gids: Arc<[IdRange]>, without_setgroups: bool) -> Result<(), Refused> {
        let mut settings = self.0.as_deref().ok_or(Refused::Again)?.settings.lock();
        if settings.gids.is_some() {
            return Err(Refused::Again);
        }
        if without_setgroups && settings.setgroups {
            return Err(Refused::Setgroups);
        }
        settings.gids = Some(gids);
        Ok(())
    }

    /// Whether `/proc/PID/setgroups` says `allow`. It takes a gid map too for setgroups(2) to work.
    pub fn setgroups(&self) -> bool {
        self.0.as_deref().is_none_or(|inner| inner.settings.lock().setgroups)
    }

    /// Writes `/proc/PID/setgroups`.
    ///
    /// # Errors
    /// `EPERM`: allowed again, or forbidden when the gids are mapped.
    pub fn set_setgroups(&self, allow: bool) -> Result<(), Refused> {
        let Some(inner) = self.0.as_deref() else {
            return if allow { Ok(()) } else { Err(Refused::Setgroups) };
        };
        let mut settings = inner.settings.lock();
        match (settings.setgroups, allow) {
            (true, true) | (false, false) => Ok(()),
            (false, true) => Err(Refused::Setgroups),
            (true, false) if settings.gids.is_some() => Err(Refused::Setgroups),
            (true, false) => {
                settings.setgroups = false;
                Ok(())
            }
        }
    }

    /// Sets `user.max_mnt_namespaces`; the initial one has no limit.
    pub fn set_mount_namespaces_max(&self, max: u32) {
        if let Some(inner) = self.0.as_deref() {
            // Relaxed: a number that stands for itself.
            inner.mount_namespaces_max.store(max, Ordering::Relaxed);
        }
    }

    /// `user.max_mnt_namespaces`; `u32::MAX` if there is no limit.
    pub fn mount_namespaces_max(&self) -> u32 {
        // Relaxed: as above.
        self.0.as_deref().map_or(u32::MAX, |inner| inner.mount_namespaces_max.load(Ordering::Relaxed))
    }

    /// Counts one mount namespace more, here and in every user namespace above.
    ///
    /// # Errors
    /// `ENOSPC`: one of them has as many as it may have.
    pub fn charge(&self) -> Result<Charge, TooMany> {
        let mut at = self;
        while let Some(inner) = at.0.as_deref() {
            let below = |count: u32| {
                // Relaxed: as above; and the count is a number.
                (count < inner.mount_namespaces_max.load(Ordering::Relaxed)).then(|| count + 1)
            };
            let counted = inner.mount_namespaces.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below);
            if counted.is_err() {
                self.uncharge(Some(at));
                return Err(TooMany);
            }
            at = &inner.parent;
        }
        Ok(Charge(self.clone()))
    }

    /// One less, from here up to and without `end`.
    fn uncharge(&self, end: Option<&UserNs>) {
        let mut at = self;
        while let Some(inner) = at.0.as_deref()
            && Some(at) != end
        {
            // Relaxed: as where it is raised in `charge`.
            inner.mount_namespaces.fetch_sub(1, Ordering::Relaxed);
            at = &inner.parent;
        }
    }
}

impl PartialEq for UserNs {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for UserNs {}

impl fmt::Debug for UserNs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user:[{}]", self.id())
    }
}

/// A mount namespace that is counted; dropped, it is no more.
pub struct Charge(UserNs);

impl Drop for Charge {
    fn drop(&mut self) {
        self.0.uncharge(None);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_limit_anywhere_above_counts_and_a_refusal_leaves_nothing_counted() {
        let outer = UserNs::INITIAL.child(1000).unwrap();
        let inner = outer.child(1000).unwrap();
        outer.set_mount_namespaces_max(2);
        let first = inner.charge().unwrap();
        let second = outer.charge().unwrap();
        assert_eq!(inner.charge().err(), Some(TooMany));
        drop(second);
        let _third = inner.charge().unwrap();
        assert_eq!(outer.charge().err(), Some(TooMany));
        drop(first);
        assert!(outer.charge().is_ok());
        assert!(UserNs::INITIAL.charge().is_ok());
    }

    #[test]
    fn levels_end() {
        let mut at = UserNs::INITIAL;
        for _ in 0..LEVELS_MAX {
            at = at.child(0).unwrap();
        }
        assert!(at.child(0).is_err());
        assert!(at.is_within(&UserNs::INITIAL) && !UserNs::INITIAL.is_within(&at));
    }
}
