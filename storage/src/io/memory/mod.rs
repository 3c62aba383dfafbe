//! [`Io`] in memory, for tests: deterministic, with faults and power cuts at any call.
//!
//! Every call of [`Io`] and [`super::IoFile`] that touches the file system has a number, counted from 0. A test runs a
//! scenario once to learn how many calls it makes, then again for each number with a fault there:
//!
//! ```
//! use std::path::Path;
//! use equeue_storage::io::{Access, Io, IoFile, memory::{Fault, MemoryIo, Survivors}};
//!
//! let scenario = async |io: MemoryIo| {
//!     let file = io.open(Path::new("/d/a"), Access::CreateNew).await?;
//!     file.write_at(io.allocate(4096).into(), 0).await?;
//!     file.sync().await?;
//!     io.sync_dir(Path::new("/d")).await
//! };
//! for call in 0..5 {
//!     let io = MemoryIo::new(7).with_dir("/d");
//!     io.fault_at(call, Fault::PowerCut);
//!     let ended = io.run({ let io = io.clone(); async move { scenario(io).await } });
//!     let after = io.after_power_cut(Survivors::Synced);
//!     assert_eq!(after.content("/d/a").is_some(), ended.is_ok());
//! }
//! ```
//!
//! Calls take virtual time drawn from the seed, so writes in flight complete in any order. Memory from
//! [`Io::allocate`] is filled with 0xEE: who forgets to clear a padding sees it on disk.

mod disk;
mod executor;
mod file;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use self::disk::Disk;
pub use self::disk::Survivors;
use self::executor::{Executor, Stop};
pub use self::file::MemoryFile;
use super::{Access, FileEntry, Io};

/// Virtual time begins here, ms UTC.
const WALL_MS: i64 = 1_795_000_000_000;

/// Longest time that a call takes, microseconds.
const LATENCY_US_MAX: u64 = 50;

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power is cut while the call is under way: it never comes back, nor does any later one.
    PowerCut,
    /// The call fails with this error of the system (`libc::EIO`, ...). A write may still reach the device in part;
    /// what a failed sync was asked for is never made durable by a later one.
    Error(i32),
    /// A write writes only so many bytes, and says so. Other calls are not changed.
    ShortWrite(usize),
    /// The call takes so much longer.
    Slow(Duration),
}

/// What a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named after the functions of Io and IoFile")]
pub enum CallKind {
    Open,
    Rename,
    Remove,
    CreateDir,
    List,
    SyncDir,
    Read,
    Write,
    Sync,
    Preallocate,
    GiveBack,
    FreeBytes,
    Close,
}

/// A call, as [`MemoryIo::fault_when`] sees it before it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub number: u64,
    /// What it is.
    pub kind: CallKind,
    /// The file or folder; for a file the name it was opened with.
    pub path: PathBuf,
    /// First byte read or written.
    pub position: u64,
    /// Bytes to read, write or reserve.
    pub len: usize,
}

/// The power was cut before the future ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerCut;

type FaultRule = Box<dyn FnMut(&Call) -> Option<Fault>>;

struct World {
    disk: RefCell<Disk>,
    executor: Executor,
    calls: Cell<u64>,
    is_off: Cell<bool>,
    faults: RefCell<BTreeMap<u64, Fault>>,
    rule: RefCell<Option<FaultRule>>,
    wall_offset_ms: Cell<i64>,
}

/// A machine with a file system, tasks and a clock, all in memory. Cloning shares it.
#[derive(Clone)]
pub struct MemoryIo {
    world: Rc<World>,
}

impl fmt::Debug for MemoryIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryIo").field("calls", &self.calls()).finish_non_exhaustive()
    }
}

impl MemoryIo {
    /// A machine with an empty file system. The seed decides how long calls take and which ready task goes next.
    pub fn new(seed: u64) -> Self {
        Self::with_disk(seed, Disk::default())
    }

    fn with_disk(seed: u64, disk: Disk) -> Self {
        Self {
            world: Rc::new(World {
                disk: RefCell::new(disk),
                executor: Executor::new(seed),
                calls: Cell::new(0),
                is_off: Cell::new(false),
                faults: RefCell::default(),
                rule: RefCell::default(),
                wall_offset_ms: Cell::new(0),
            }),
        }
    }

    /// Has a folder from the beginning, durable.
    #[must_use]
    pub fn with_dir(self, dir: impl AsRef<Path>) -> Self {
        self.world.disk.borrow_mut().put_dir(dir.as_ref());
        self
    }

    /// Runs a future and all tasks that it spawns, until it ends or the power is cut. Tasks that did not end stay
    /// for the next `run`.
    ///
    /// # Errors
    /// [`PowerCut`], with all tasks dropped.
    ///
    /// # Panics
    /// When the future waits for something that will never happen.
    pub fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Result<T, PowerCut> {
        let result = Rc::new(Cell::new(None));
        let ended = Rc::new(Cell::new(false));
        self.world.executor.spawn({
            let (result, ended) = (Rc::clone(&result), Rc::clone(&ended));
            async move {
                result.set(Some(future.await));
                ended.set(true);
            }
        });
        let stop = self.world.executor.run(|| ended.get() || self.world.is_off.get());
        if self.world.is_off.get() {
            self.world.executor.drop_tasks();
            return Err(PowerCut);
        }
        assert_eq!(stop, Stop::Asked, "every task waits for something that will never happen");
        Ok(result.take().expect("the future ended"))
    }

    /// A new machine with what a power cut now leaves of this one's file system. This one can be used no more.
    #[must_use]
    pub fn after_power_cut(&self, survivors: Survivors) -> Self {
        let seed = if let Survivors::Random(seed) = survivors { seed } else { 0 };
        self.world.is_off.set(true);
        self.world.executor.drop_tasks();
        let disk = self.world.disk.borrow().after_power_cut(survivors, &mut StdRng::seed_from_u64(seed));
        Self::with_disk(seed, disk)
    }

    /// A new machine as after a kill of the process: all tasks are gone, the file system is what it was, and what was
    /// not synced still is not. This one can be used no more.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        self.world.is_off.set(true);
        self.world.executor.drop_tasks();
        Self::with_disk(0, self.world.disk.take())
    }

    /// Ends the machine: all tasks are dropped, and with them what they hold. Tasks hold their machine and it holds them, so
    /// one that is just let go of stays in memory.
    pub fn end(self) {
        self.world.is_off.set(true);
        self.world.executor.drop_tasks();
    }

    /// Calls begun so far: the number of the next one.
    pub fn calls(&self) -> u64 {
        self.world.calls.get()
    }

    /// Lets call `number` go wrong.
    pub fn fault_at(&self, number: u64, fault: Fault) {
        self.world.faults.borrow_mut().insert(number, fault);
    }

    /// Asks `rule` before each call that [`MemoryIo::fault_at`] says nothing of. Replaces the rule before.
    pub fn fault_when(&self, rule: impl FnMut(&Call) -> Option<Fault> + 'static) {
        *self.world.rule.borrow_mut() = Some(Box::new(rule));
    }

    /// Ends all faults that are still to come.
    pub fn clear_faults(&self) {
        self.world.faults.borrow_mut().clear();
        *self.world.rule.borrow_mut() = None;
    }

    /// Bytes that all files together may have; past it writes and reservations fail with ENOSPC.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.world.disk.borrow_mut().capacity = bytes;
    }

    /// Lets the clock of people jump.
    pub fn jump_wall_ms(&self, by: i64) {
        self.world.wall_offset_ms.set(self.world.wall_offset_ms.get() + by);
    }

    /// Virtual time since the beginning.
    pub fn now(&self) -> Duration {
        self.world.executor.now()
    }

    /// Paths of all files, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.world.disk.borrow().paths()
    }

    /// Content of a file as programs see it.
    pub fn content(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let inode = self.world.disk.borrow().find(path.as_ref()).ok()?;
        let content = inode.borrow().live().to_vec();
        Some(content)
    }

    /// Puts a file there, durable with its folders. Files that are open keep the content they had.
    pub fn put(&self, path: impl AsRef<Path>, content: Vec<u8>) {
        self.world.disk.borrow_mut().put(path.as_ref(), content);
    }

    /// Takes a file away, durably.
    pub fn take(&self, path: impl AsRef<Path>) {
        self.world.disk.borrow_mut().take(path.as_ref());
    }

    /// Changes a file's content behind everyone's back.
    pub fn damage(&self, path: impl AsRef<Path>, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.content(&path).expect("the file is there");
        change(&mut content);
        self.put(path, content);
    }

    /// Like [`MemoryIo::damage`], also for those who have the file open.
    pub fn damage_in_place(&self, path: impl AsRef<Path>, change: impl FnOnce(&mut Vec<u8>)) {
        let inode = self.world.disk.borrow().find(path.as_ref()).expect("the file is there");
        inode.borrow_mut().damage(change);
    }

    /// Numbers a call and decides its fate. Without power no call begins.
    async fn begin(&self, kind: CallKind, path: &Path, position: u64, len: usize) -> (u64, Option<Fault>) {
        if self.world.is_off.get() {
            std::future::pending::<()>().await;
        }
        let number = self.world.calls.get();
        self.world.calls.set(number + 1);
        let planned = self.world.faults.borrow_mut().remove(&number);
        let fault = planned.or_else(|| {
            let call = Call { number, kind, path: path.to_owned(), position, len };
            self.world.rule.borrow_mut().as_mut().and_then(|rule| rule(&call))
        });
        if fault == Some(Fault::PowerCut) {
            self.world.is_off.set(true);
        }
        if let Some(Fault::Slow(longer)) = fault {
            self.world.executor.sleep(longer).await;
        }
        (number, fault)
    }

    /// The time that a call takes; for ever when the power is cut meanwhile.
    async fn latency(&self) {
        let duration = Duration::from_micros(1 + self.world.executor.draw(LATENCY_US_MAX));
        self.world.executor.sleep(duration).await;
        if self.world.is_off.get() {
            std::future::pending::<()>().await;
        }
    }

    /// A call that has no effect before it succeeds.
    async fn call(&self, kind: CallKind, path: &Path, position: u64, len: usize) -> io::Result<()> {
        let (_, fault) = self.begin(kind, path, position, len).await;
        self.latency().await;
        match fault {
            Some(Fault::Error(code)) => Err(io::Error::from_raw_os_error(code)),
            _ => Ok(()),
        }
    }

    fn check_space(&self, more: usize) -> io::Result<()> {
        let disk = self.world.disk.borrow();
        match disk.capacity {
            Some(capacity) if more > 0 && disk.used() + more > capacity => {
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            }
            _ => Ok(()),
        }
    }
}

impl Io for MemoryIo {
    type Buffer = Vec<u8>;
    type ReadBuffer = Vec<u8>;
    type File = MemoryFile;

    fn allocate(&self, len: usize) -> Vec<u8> {
        vec![0xee; len]
    }

    async fn open(&self, path: &Path, access: Access) -> io::Result<MemoryFile> {
        self.call(CallKind::Open, path, 0, 0).await?;
        let mut disk = self.world.disk.borrow_mut();
        let inode = if access == Access::CreateNew { disk.create(path)? } else { disk.find(path)? };
        let can_write = access != Access::Read;
        Ok(MemoryFile { io: self.clone(), path: path.to_owned(), inode, can_write, line: Rc::default() })
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(CallKind::Rename, from, 0, 0).await?;
        self.world.disk.borrow_mut().rename(from, to)
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(CallKind::Remove, path, 0, 0).await?;
        self.world.disk.borrow_mut().remove(path)
    }

    async fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.call(CallKind::CreateDir, path, 0, 0).await?;
        self.world.disk.borrow_mut().create_dir(path);
        Ok(())
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<FileEntry>> {
        self.call(CallKind::List, dir, 0, 0).await?;
        let files = self.world.disk.borrow().list(dir)?;
        Ok(files
            .into_iter()
            .map(|(name, bytes)| FileEntry { name, bytes: bytes as u64, stored: bytes as u64 })
            .collect())
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let changes = self.world.disk.borrow().name_changes();
        self.call(CallKind::SyncDir, dir, 0, 0).await?;
        self.world.disk.borrow_mut().synced_dir(dir, changes);
        Ok(())
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.world.executor.spawn(task);
    }

    async fn sleep(&self, duration: Duration) {
        self.world.executor.sleep(duration).await;
    }

    async fn yield_now(&self) {
        self.world.executor.sleep(Duration::from_nanos(1)).await;
    }

    fn wall_ms(&self) -> i64 {
        let passed = i64::try_from(self.now().as_millis()).unwrap_or(i64::MAX);
        WALL_MS.saturating_add(passed).saturating_add(self.world.wall_offset_ms.get())
    }

    fn uptime(&self) -> Duration {
        self.now()
    }

    async fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.call(CallKind::FreeBytes, dir, 0, 0).await?;
        let disk = self.world.disk.borrow();
        Ok(disk.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(disk.used()) as u64))
    }
}
