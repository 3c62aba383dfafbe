//! What a power cut leaves: files and names, each as they are now and as they are on the device.
//!
//! Pure: no tasks, no time. A write is *un-synced* from the moment it is handed over until a sync that began after
//! its completion ended; an un-synced write may be on the device wholly, partly (per 512-byte sector) or not at all,
//! independent of all others. Changes of names are journalled: un-synced ones survive as a prefix of their order, as
//! on ext4 and XFS.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rand::RngExt as _;
use rand::rngs::StdRng;

/// Bytes that a device writes as a whole or not at all.
const SECTOR: usize = 512;

/// Which un-synced changes a power cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivors {
    /// None: exactly what was synced.
    Synced,
    /// All, as after a kill of the process: nothing tests syncing less.
    All,
    /// Each by chance: kept, dropped, or torn; the number is the seed.
    Random(u64),
}

/// A write, or the growth of a file, that is not synced.
#[derive(Clone, Debug)]
struct Change {
    id: u64,
    position: usize,
    data: Vec<u8>,
    /// The file has at least this length afterwards.
    grown_to: usize,
    /// The caller was told that it is done.
    completed: bool,
    /// A sync of it failed: no later sync makes up for that.
    lost: bool,
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        let end = self.position + self.data.len();
        content.resize(content.len().max(end).max(self.grown_to), 0);
        if let Some(target) = content.get_mut(self.position..end) {
            target.copy_from_slice(&self.data);
        }
    }

    /// Applies what a power cut leaves of it.
    fn apply_torn(&self, content: &mut Vec<u8>, chance: &mut StdRng) {
        let sectors = self.data.len().div_ceil(SECTOR);
        let first = match chance.random_range(0..4) {
            0 => return,
            1 => return self.apply(content),
            2 => Some(chance.random_range(0..=sectors)),
            _ => None,
        };
        for (index, sector) in self.data.chunks(SECTOR).enumerate() {
            if first.map_or_else(|| chance.random(), |first| index < first) {
                let position = self.position + index * SECTOR;
                let grown_to = position + sector.len();
                Self { position, data: sector.to_vec(), grown_to, ..*self }.apply(content);
            }
        }
    }
}

/// A file's content, whatever its name.
#[derive(Debug, Default)]
pub(super) struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

impl Inode {
    fn whole(content: Vec<u8>) -> Self {
        Self { live: content.clone(), durable: content, unsynced: Vec::new() }
    }

    pub(super) fn live(&self) -> &[u8] {
        &self.live
    }

    /// Changes what is there, durably.
    pub(super) fn damage(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.live.clone();
        change(&mut content);
        self.durable.clone_from(&content);
        self.live = content;
    }

    /// Hands a change over to the device; from now on it may survive a power cut.
    pub(super) fn submit(&mut self, id: u64, position: usize, data: Vec<u8>, grown_to: usize) {
        self.unsynced.push(Change { id, position, data, grown_to, completed: false, lost: false });
    }

    /// The caller learns that the change is done; reads see it.
    pub(super) fn complete(&mut self, id: u64) {
        if let Some(change) = self.unsynced.iter_mut().find(|change| change.id == id) {
            change.completed = true;
            change.apply(&mut self.live);
        }
    }

    /// What a sync that begins now will make durable.
    pub(super) fn completed(&self) -> BTreeSet<u64> {
        let syncable = self.unsynced.iter().filter(|change| change.completed && !change.lost);
        syncable.map(|change| change.id).collect()
    }

    /// A sync over `changes` ended well.
    pub(super) fn synced(&mut self, changes: &BTreeSet<u64>) {
        let (synced, rest): (Vec<_>, Vec<_>) =
            self.unsynced.drain(..).partition(|change| changes.contains(&change.id) && !change.lost);
        self.unsynced = rest;
        for change in synced {
            change.apply(&mut self.durable);
        }
    }

    /// A sync over `changes` failed.
    pub(super) fn sync_failed(&mut self, changes: &BTreeSet<u64>) {
        for change in self.unsynced.iter_mut().filter(|change| changes.contains(&change.id)) {
            change.lost = true;
        }
    }

    fn after_power_cut(&self, survivors: Survivors, chance: &mut StdRng) -> Vec<u8> {
        let mut content = self.durable.clone();
        for change in &self.unsynced {
            match survivors {
                Survivors::Synced => {}
                Survivors::All => change.apply(&mut content),
                Survivors::Random(_) => change.apply_torn(&mut content, chance),
            }
        }
        content
    }
}

pub(super) type InodeRef = Rc<RefCell<Inode>>;

/// A change of names.
#[derive(Clone, Debug)]
enum NameChange {
    CreateDir(PathBuf),
    Create(PathBuf, InodeRef),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    fn dir(&self) -> Option<&Path> {
        match self {
            Self::CreateDir(path) | Self::Create(path, _) | Self::Rename(_, path) | Self::Remove(path) => {
                path.parent()
            }
        }
    }
}

/// Names of files and folders.
#[derive(Clone, Debug, Default)]
struct Names {
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, InodeRef>,
}

impl Names {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::CreateDir(path) => {
                self.dirs.insert(path.clone());
            }
            NameChange::Create(path, inode) => {
                self.files.insert(path.clone(), Rc::clone(inode));
            }
            NameChange::Rename(from, to) => {
                if let Some(inode) = self.files.remove(from) {
                    self.files.insert(to.clone(), inode);
                }
            }
            NameChange::Remove(path) => {
                self.files.remove(path);
            }
        }
    }

    fn has_dir(&self, dir: &Path) -> bool {
        dir.parent().is_none() || (self.dirs.contains(dir) && dir.parent().is_some_and(|up| self.has_dir(up)))
    }
}

/// A file system.
#[derive(Debug, Default)]
pub(super) struct Disk {
    live: Names,
    durable: Names,
    unsynced: Vec<NameChange>,
    pub(super) capacity: Option<usize>,
}

impl Disk {
    fn change(&mut self, change: NameChange) {
        self.live.apply(&change);
        self.unsynced.push(change);
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<InodeRef> {
        self.live.files.get(path).cloned().ok_or_else(not_found)
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<InodeRef> {
        if self.live.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|dir| self.live.has_dir(dir)) {
            return Err(not_found());
        }
        let inode = InodeRef::default();
        self.change(NameChange::Create(path.to_owned(), Rc::clone(&inode)));
        Ok(inode)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.find(from)?;
        if !to.parent().is_some_and(|dir| self.live.has_dir(dir)) {
            return Err(not_found());
        }
        self.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        self.change(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    pub(super) fn create_dir(&mut self, path: &Path) {
        let missing: Vec<_> = path.ancestors().filter(|dir| !self.live.has_dir(dir)).collect();
        for dir in missing.into_iter().rev() {
            self.change(NameChange::CreateDir(dir.to_owned()));
        }
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<(String, usize)>> {
        if !self.live.has_dir(dir) {
            return Err(not_found());
        }
        let files = self.live.files.iter().filter(|(path, _)| path.parent() == Some(dir));
        Ok(files
            .filter_map(|(path, inode)| {
                Some((path.file_name()?.to_str()?.to_owned(), inode.borrow().live.len()))
            })
            .collect())
    }

    /// Number of changes of names that a sync beginning now covers.
    pub(super) fn name_changes(&self) -> usize {
        self.unsynced.len()
    }

    /// A sync of `dir` that covers the first `count` changes ended well.
    pub(super) fn synced_dir(&mut self, dir: &Path, count: usize) {
        let mut index = 0;
        let durable = &mut self.durable;
        self.unsynced.retain(|change| {
            index += 1;
            let synced = index <= count && change.dir() == Some(dir);
            if synced {
                durable.apply(change);
            }
            !synced
        });
    }

    /// Bytes of all files.
    pub(super) fn used(&self) -> usize {
        self.live.files.values().map(|inode| inode.borrow().live.len()).sum()
    }

    /// What is there when the power comes back.
    pub(super) fn after_power_cut(&self, survivors: Survivors, chance: &mut StdRng) -> Self {
        let mut names = self.durable.clone();
        let kept = match survivors {
            Survivors::Synced => 0,
            Survivors::All => self.unsynced.len(),
            Survivors::Random(_) => chance.random_range(0..=self.unsynced.len()),
        };
        for change in self.unsynced.iter().take(kept) {
            names.apply(change);
        }
        let dirs: BTreeSet<_> = names.dirs.iter().filter(|dir| names.has_dir(dir)).cloned().collect();
        let reachable = |path: &Path| path.parent().is_some_and(|dir| names.has_dir(dir));
        let files = names.files.iter().filter(|(path, _)| reachable(path)).map(|(path, inode)| {
            let content = inode.borrow().after_power_cut(survivors, chance);
            (path.clone(), Rc::new(RefCell::new(Inode::whole(content))))
        });
        let names = Names { files: files.collect(), dirs };
        Self { live: names.clone(), durable: names, unsynced: Vec::new(), capacity: self.capacity }
    }

    /// Puts a file there, durable with its folders, as if it had been there for ever.
    pub(super) fn put(&mut self, path: &Path, content: Vec<u8>) {
        let inode = Rc::new(RefCell::new(Inode::whole(content)));
        path.parent().into_iter().for_each(|dir| self.put_dir(dir));
        for names in [&mut self.live, &mut self.durable] {
            names.files.insert(path.to_owned(), Rc::clone(&inode));
        }
    }

    /// Puts a folder there, durable.
    pub(super) fn put_dir(&mut self, dir: &Path) {
        for names in [&mut self.live, &mut self.durable] {
            names.dirs.extend(dir.ancestors().map(Path::to_owned));
        }
    }

    /// Takes a file away for ever.
    pub(super) fn take(&mut self, path: &Path) {
        for names in [&mut self.live, &mut self.durable] {
            names.files.remove(path);
        }
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.live.files.keys().cloned().collect()
    }
}

fn not_found() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}
