//! Files in memory, for a broker that keeps messages in memory only.
//!
//! A file is made of the very buffers that were written to it: a write costs no copy, and what is read as it was written
//! is shared. **Invariants**: the lengths of all files stay below the capacity; pieces of a file do not overlap.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{Access, FileEntry};

/// A folder tree of files in memory.
pub(super) struct RamDisk<B> {
    files: RefCell<BTreeMap<PathBuf, Rc<RamFile<B>>>>,
    space: Rc<Space>,
}

struct Space {
    capacity: u64,
    used: Cell<u64>,
}

/// A file in memory.
pub(super) struct RamFile<B> {
    len: Cell<u64>,
    /// By the position of their first byte. What lies between them reads as zeros.
    pieces: RefCell<BTreeMap<u64, Piece<B>>>,
    space: Rc<Space>,
}

struct Piece<B> {
    buffer: Rc<B>,
    range: Range<usize>,
}

/// What a read gives.
pub(super) enum RamBytes<B> {
    /// Part of a buffer as it was written.
    Shared(Rc<B>, Range<usize>),
    /// Put together.
    Copied(Vec<u8>),
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for RamBytes<B> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Shared(buffer, range) => (**buffer).as_ref().get(range.clone()).unwrap_or_default(),
            Self::Copied(bytes) => bytes,
        }
    }
}

impl<B> Drop for RamFile<B> {
    fn drop(&mut self) {
        self.space.used.set(self.space.used.get().saturating_sub(self.len.get()));
    }
}

impl<B: AsRef<[u8]>> RamDisk<B> {
    pub(super) fn new(capacity: u64) -> Self {
        Self { files: RefCell::default(), space: Rc::new(Space { capacity, used: Cell::new(0) }) }
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.space.capacity.saturating_sub(self.space.used.get())
    }

    pub(super) fn open(&self, path: &Path, access: Access) -> io::Result<Rc<RamFile<B>>> {
        let mut files = self.files.borrow_mut();
        match (files.get(path), access) {
            (Some(_), Access::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Some(file), _) => Ok(Rc::clone(file)),
            (None, Access::CreateNew) => {
                let (len, pieces) = (Cell::new(0), RefCell::default());
                let file = Rc::new(RamFile { len, pieces, space: Rc::clone(&self.space) });
                files.insert(path.to_owned(), Rc::clone(&file));
                Ok(file)
            }
            (None, _) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files.borrow_mut();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.borrow_mut().remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn list(&self, dir: &Path) -> Vec<FileEntry> {
        let files = self.files.borrow();
        let of_dir = files.iter().filter(|(path, _)| path.parent() == Some(dir));
        of_dir
            .filter_map(|(path, file)| {
                let (name, bytes) = (path.file_name()?.to_str()?.to_owned(), file.len.get());
                Some(FileEntry { name, bytes, stored: bytes })
            })
            .collect()
    }
}

impl<B: AsRef<[u8]>> RamFile<B> {
    /// The file has at least `len` bytes afterwards.
    pub(super) fn grow_to(&self, len: u64) -> io::Result<()> {
        let more = len.saturating_sub(self.len.get());
        let used = self.space.used.get().saturating_add(more);
        if more > 0 && used > self.space.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.space.used.set(used);
        self.len.set(self.len.get().max(len));
        Ok(())
    }

    pub(super) fn write(&self, buffer: Rc<B>, position: u64) -> io::Result<usize> {
        let len = (*buffer).as_ref().len();
        let end = position.saturating_add(len as u64);
        self.grow_to(end)?;
        self.cut_out(position, end);
        if len > 0 {
            self.pieces.borrow_mut().insert(position, Piece { buffer, range: 0..len });
        }
        Ok(len)
    }

    /// From now on the bytes of `begin..end` read as zeros.
    pub(super) fn cut_out(&self, begin: u64, end: u64) {
        let mut pieces = self.pieces.borrow_mut();
        // The one that may reach in from before, and all that begin inside.
        let before = pieces.range(..begin).next_back().map(|(at, _)| *at);
        let inside: Vec<u64> = pieces.range(begin..end.max(begin)).map(|(at, _)| *at).collect();
        for at in before.into_iter().chain(inside) {
            let Some(Piece { buffer, range }) = pieces.remove(&at) else { continue };
            let piece_end = at + range.len() as u64;
            let offset = |position: u64| range.start + usize::try_from(position - at).unwrap_or(usize::MAX);
            if at < begin {
                let kept = range.start..offset(begin.min(piece_end));
                pieces.insert(at, Piece { buffer: Rc::clone(&buffer), range: kept });
            }
            if piece_end > end {
                pieces.insert(end, Piece { range: offset(end.max(at))..range.end, buffer });
            }
        }
    }

    /// The bytes of `len` from `position` on, as far as the file goes.
    pub(super) fn read(&self, position: u64, len: usize) -> RamBytes<B> {
        let end = position.saturating_add(len as u64).min(self.len.get());
        let len = usize::try_from(end.saturating_sub(position)).unwrap_or_default();
        let pieces = self.pieces.borrow();
        let from = pieces.range(..=position).next_back().map_or(position, |(at, _)| *at);
        let mut copy = None;
        for (at, piece) in pieces.range(from..end.max(from)) {
            let (begin, piece_end) = (position.max(*at), end.min(at + piece.range.len() as u64));
            if begin >= piece_end {
                continue;
            }
            let index = |position: u64, of: u64| usize::try_from(position - of).unwrap_or(usize::MAX);
            let source = piece.range.start + index(begin, *at)..piece.range.start + index(piece_end, *at);
            if copy.is_none() && begin == position && piece_end == end {
                return RamBytes::Shared(Rc::clone(&piece.buffer), source);
            }
            let bytes: &mut Vec<u8> = copy.get_or_insert_with(|| vec![0; len]);
            let target = bytes.get_mut(index(begin, position)..index(piece_end, position));
            if let (Some(target), Some(source)) = (target, (*piece.buffer).as_ref().get(source)) {
                target.copy_from_slice(source);
            }
        }
        RamBytes::Copied(copy.unwrap_or_else(|| vec![0; len]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(disk: &RamDisk<Vec<u8>>, name: &str, access: Access) -> io::Result<Rc<RamFile<Vec<u8>>>> {
        disk.open(Path::new(name), access)
    }

    proptest! {
        #[test]
        fn a_file_is_a_vec(writes in prop::collection::vec((0_u64..20, 1_usize..8, any::<bool>()), 0..40)) {
            let disk = RamDisk::new(1 << 20);
            let file = open(&disk, "/d/a", Access::CreateNew).unwrap();
            let mut model = Vec::<u8>::new();
            for (number, (position, len, cut)) in (1_u8..).zip(writes) {
                let begin = usize::try_from(position).unwrap();
                if cut {
                    file.cut_out(position, position + len as u64);
                    for byte in model.iter_mut().skip(begin).take(len) {
                        *byte = 0;
                    }
                } else {
                    file.write(Rc::new(vec![number; len]), position).unwrap();
                    model.resize(model.len().max(begin + len), 0);
                    model[begin..begin + len].fill(number);
                }
                for from in 0..28_u64 {
                    for len in [1, 3, 9, 40] {
                        let found = file.read(from, len);
                        let rest = model.get(usize::try_from(from).unwrap()..).unwrap_or_default();
                        prop_assert_eq!(found.as_ref(), rest.get(..len).unwrap_or(rest));
                    }
                }
            }
        }
    }

    #[test]
    fn what_was_written_is_shared_and_not_copied() {
        let disk = RamDisk::new(1 << 20);
        let file = open(&disk, "/d/a", Access::CreateNew).unwrap();
        let buffer = Rc::new(vec![1; 100]);
        file.write(Rc::clone(&buffer), 10).unwrap();
        assert!(matches!(file.read(20, 30), RamBytes::Shared(shared, _) if Rc::ptr_eq(&shared, &buffer)));
    }

    #[test]
    fn space_is_bounded_and_comes_back() {
        let disk = RamDisk::new(1000);
        let file = open(&disk, "/d/a", Access::CreateNew).unwrap();
        file.grow_to(600).unwrap();
        let other = open(&disk, "/d/b", Access::CreateNew).unwrap();
        assert_eq!(other.write(Rc::new(vec![0; 500]), 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.free_bytes(), 400);
        disk.rename(Path::new("/d/a"), Path::new("/d/c")).unwrap();
        assert_eq!(disk.list(Path::new("/d")).len(), 2);
        disk.remove(Path::new("/d/c")).unwrap();
        assert_eq!(disk.free_bytes(), 400, "somebody still reads it");
        drop(file);
        assert_eq!(disk.free_bytes(), 1000);
        assert!(open(&disk, "/d/c", Access::Read).is_err());
    }
}
