//! Direct I/O on a real disk.

use super::super::blocking_threads;
use super::*;

/// Beside the test's executable: on a disk, while /tmp may be a tmpfs, which has no direct I/O.
fn disk_dir() -> tempfile::TempDir {
    let executable = std::env::current_exe().unwrap();
    tempfile::tempdir_in(executable.parent().unwrap()).unwrap()
}

pub(in crate::io) fn on_executor<T: Send + 'static>(
    test: impl AsyncFnOnce(DmaIo, &Path) -> T + Send + 'static,
) -> T {
    let dir = disk_dir();
    let path = dir.path().to_owned();
    LocalExecutorBuilder::new(Placement::Unbound)
        .blocking_thread_pool_placement(blocking_threads(&Placement::Unbound, 1))
        .io_memory(4 << 20)
        .spawn(move || async move {
            let io = DmaIo::new(&path).await.unwrap();
            test(io, &path).await
        })
        .unwrap()
        .join()
        .unwrap()
}

fn block(io: &DmaIo, len: usize, byte: u8) -> Rc<DmaBuffer> {
    let mut buffer = io.allocate(len);
    buffer.as_mut().fill(byte);
    Rc::new(buffer)
}

#[test]
fn writes_are_read_back_and_end_at_the_end_of_the_file() {
    on_executor(async |io, dir| {
        let path = dir.join("a");
        let file = io.open(&path, Access::CreateNew).await.unwrap();
        assert_eq!(file.read_at(0, ALIGN).await.unwrap().as_ref(), b"");
        assert_eq!(file.write_at(block(&io, 2 * ALIGN, 7), 0).await.unwrap(), 2 * ALIGN);
        file.sync().await.unwrap();
        let read = file.read_at(4096, 4 * ALIGN).await.unwrap();
        assert_eq!(read.as_ref(), &[7; ALIGN]);
        file.preallocate(4 * ALIGN as u64).await.unwrap();
        assert_eq!(file.read_at(0, 8 * ALIGN).await.unwrap().as_ref().len(), 4 * ALIGN);
        file.close().await.unwrap();
        let exists = io.open(&path, Access::CreateNew).await.map(|_| ()).unwrap_err();
        assert_eq!(exists.kind(), io::ErrorKind::AlreadyExists);
        let file = io.open(&path, Access::Read).await.unwrap();
        let denied = file.write_at(block(&io, ALIGN, 1), 0).await.unwrap_err();
        assert_eq!(denied.raw_os_error(), Some(libc::EBADF));
        file.close().await.unwrap();
    });
}

#[test]
fn names_are_changed_and_listed() {
    on_executor(async |io, dir| {
        let sub = dir.join("x/y");
        io.create_dir(&sub).await.unwrap();
        io.create_dir(&sub).await.unwrap();
        let file = io.open(&sub.join("one.tmp"), Access::CreateNew).await.unwrap();
        file.write_at(block(&io, ALIGN, 1), 0).await.unwrap();
        io.rename(&sub.join("one.tmp"), &sub.join("one")).await.unwrap();
        io.sync_dir(&sub).await.unwrap();
        assert_eq!(file.write_at(block(&io, ALIGN, 1), 4096).await.unwrap(), ALIGN);
        file.close().await.unwrap();
        assert_eq!(
            io.list(&sub).await.unwrap(),
            [FileEntry { name: "one".into(), bytes: 8192, stored: 8192 }]
        );
        assert!(io.list(&dir.join("x")).await.unwrap().is_empty());
        io.remove(&sub.join("one")).await.unwrap();
        assert!(io.list(&sub).await.unwrap().is_empty());
        let gone = io.remove(&sub.join("one")).await.unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        let gone = io.open(&sub.join("one"), Access::Read).await.map(|_| ()).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::ENOENT));
    });
}

/// How often the calling thread went to sleep by itself.
fn sleeps() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

/// Sleeps are counted, not time: an executor that polls its device never sleeps while a write is in flight, however
/// fast or slow the device and the core are, and one that does not poll has nothing else to do.
#[test]
fn the_first_new_file_does_not_make_the_executor_spin() {
    on_executor(async |io, dir| {
        let file = io.open(&dir.join("new"), Access::CreateNew).await.unwrap();
        let buffer = block(&io, 256 * ALIGN, 3);
        let before = sleeps();
        for megabyte in 0..100 {
            file.write_at(Rc::clone(&buffer), (megabyte % 64) << 20).await.unwrap();
        }
        let slept = sleeps() - before;
        assert!(slept >= 10, "the executor slept {slept} times in 100 writes: its device is polled");
        file.close().await.unwrap();
    });
}

#[test]
fn a_panic_on_a_blocking_thread_is_an_error() {
    on_executor(async |_, _| {
        let error = blocking::<()>(|| panic!("as a test")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Other);
        blocking(|| Ok(())).await.unwrap();
    });
}

#[test]
fn tasks_and_time() {
    on_executor(async |io, _| {
        let ran = Rc::new(Cell::new(false));
        io.spawn({
            let ran = Rc::clone(&ran);
            async move { ran.set(true) }
        });
        while !ran.get() {
            io.yield_now().await;
        }
        let begin = std::time::Instant::now();
        io.sleep(Duration::from_millis(5)).await;
        assert!(begin.elapsed() >= Duration::from_millis(5));
        assert!(io.wall_ms() > 1_700_000_000_000);
    });
}
