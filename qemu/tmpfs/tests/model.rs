//! Random operations against a naive model: a sorted map from whole paths to what is there.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Ns, Random, fresh, look, namespace};
use mnt_table::dentry::{Dentry, SuperBlock};
use mnt_table::reclaim::pin;
use tmpfs::{FsError, Kind, TmpDentry, rename};

type Path = Vec<u8>; // one byte a name

const NAMES: &[u8] = b"abcd";
const STEPS: usize = if cfg!(miri) { 300 } else { 20_000 };

#[derive(Default)]
struct Model(BTreeMap<Path, (Kind, Option<u64>)>);

impl Model {
    fn kind(&self, path: &Path) -> Option<Kind> {
        if path.is_empty() { Some(Kind::Directory) } else { self.0.get(path).map(|node| node.0) }
    }

    fn has_children(&self, path: &Path) -> bool {
        self.0.keys().any(|other| other.len() > path.len() && other.starts_with(path))
    }

    fn add(&mut self, path: &Path, kind: Kind) -> Result<(), FsError> {
        let parent = path[..path.len() - 1].to_vec();
        match self.kind(&parent) {
            Some(Kind::Directory) => {}
            _ => return Err(FsError::NotDirectory),
        }
        if self.0.contains_key(path) {
            return Err(FsError::Exists);
        }
        self.0.insert(path.clone(), (kind, None));
        Ok(())
    }

    fn remove(&mut self, path: &Path, directory: bool) -> Result<(), FsError> {
        if self.kind(&path[..path.len() - 1].to_vec()) != Some(Kind::Directory) {
            return Err(FsError::NotDirectory);
        }
        match (self.kind(path).ok_or(FsError::NotFound)?, directory) {
            (Kind::Directory, false) => Err(FsError::IsDirectory),
            (Kind::File | Kind::Symlink, true) => Err(FsError::NotDirectory),
            _ if self.has_children(path) => Err(FsError::NotEmpty),
            _ => {
                self.0.remove(path);
                Ok(())
            }
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), FsError> {
        for path in [from, to] {
            if self.kind(&path[..path.len() - 1].to_vec()) != Some(Kind::Directory) {
                return Err(FsError::NotDirectory);
            }
        }
        let kind = self.kind(from).ok_or(FsError::NotFound)?;
        if to.len() > from.len() && to.starts_with(from) {
            return Err(FsError::IntoItself);
        }
        if from.len() > to.len() && from.starts_with(to) {
            return Err(FsError::NotEmpty);
        }
        if from == to {
            return Ok(());
        }
        match (kind == Kind::Directory, self.kind(to).map(|kind| kind == Kind::Directory)) {
            (true, Some(false)) => return Err(FsError::NotDirectory),
            (false, Some(true)) => return Err(FsError::IsDirectory),
            _ => {}
        }
        if self.has_children(to) {
            return Err(FsError::NotEmpty);
        }
        self.0.remove(to);
        let moved: Vec<Path> = self.0.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in moved {
            let node = self.0.remove(&path).unwrap();
            self.0.insert([to.as_slice(), &path[from.len()..]].concat(), node);
        }
        Ok(())
    }
}

/// The dentry at `path`, if all of it is there.
fn walk(root: &Arc<TmpDentry>, path: &[u8]) -> Option<Arc<TmpDentry>> {
    path.iter().try_fold(Arc::clone(root), |at, name| look(&at, &[*name]).ok())
}

/// The whole tree equals the model, by entries, by lookups and by places.
fn compare(root: &Arc<TmpDentry>, model: &mut Model) {
    let mut waiting = vec![(Path::new(), Arc::clone(root))];
    let mut seen = 0;
    while let Some((path, dentry)) = waiting.pop() {
        for (name, child) in dentry.entries().unwrap() {
            let path = [path.as_slice(), &name].concat();
            let node = model.0.get_mut(&path).unwrap_or_else(|| panic!("{path:?} should not be there"));
            assert_eq!(child.kind(), node.0, "{path:?}");
            assert_eq!(*node.1.get_or_insert(child.id().1), child.id().1, "{path:?} is another one");
            assert!(Arc::ptr_eq(&look(&dentry, &name).unwrap(), &child));
            let guard = pin();
            let (known_as, parent) = child.parent(&guard).unwrap();
            assert!(*known_as == *name && Arc::ptr_eq(parent, &dentry) && !child.is_removed());
            seen += 1;
            if child.is_dir() {
                waiting.push((path, child));
            }
        }
    }
    assert_eq!(seen, model.0.len(), "something is missing");
}

fn step(root: &Arc<TmpDentry>, model: &mut Model, random: &mut Random, ns: &Ns) {
    let mut path = || -> Path { (0..1 + random.below(4)).map(|_| NAMES[random.below(4)]).collect() };
    let (one, two) = (path(), path());
    let Some(parent) = walk(root, &one[..one.len() - 1]) else { return };
    let name = &one[one.len() - 1..];
    match random.below(6) {
        0 => assert_eq!(parent.mkdir(name).map(drop), model.add(&one, Kind::Directory), "mkdir {one:?}"),
        1 => assert_eq!(parent.create(name).map(drop), model.add(&one, Kind::File), "create {one:?}"),
        2 => assert_eq!(
            parent.make_symlink(name, b"x").map(drop),
            model.add(&one, Kind::Symlink),
            "symlink {one:?}"
        ),
        3 => assert_eq!(parent.rmdir(name, ns).map(drop), model.remove(&one, true), "rmdir {one:?}"),
        4 => assert_eq!(parent.unlink(name, ns).map(drop), model.remove(&one, false), "unlink {one:?}"),
        _ => {
            let Some(target) = walk(root, &two[..two.len() - 1]) else { return };
            let renamed = rename((&parent, name), (&target, &two[two.len() - 1..]), ns);
            assert_eq!(renamed.map(drop), model.rename(&one, &two), "rename {one:?} {two:?}");
        }
    }
}

#[test]
fn random_operations_do_what_the_model_does() {
    let (root, ns) = (fresh(1), namespace());
    let (mut model, mut random) = (Model::default(), Random::new());
    for number in 0..STEPS {
        step(&root, &mut model, &mut random, &ns);
        if number % 16 == 0 {
            compare(&root, &mut model);
        }
    }
    compare(&root, &mut model);
    root.super_block().shutdown();
}
