//! The double itself is tested: what it loses, what it keeps, and that runs repeat.

use futures::future::join;

use super::*;
use crate::io::IoFile as _;

const A: &str = "/d/a";

fn block(byte: u8, blocks: usize) -> Rc<Vec<u8>> {
    Rc::new(vec![byte; blocks * 4096])
}

fn count(bytes: &[u8], byte: u8) -> usize {
    bytes.iter().map(|b| usize::from(*b == byte)).sum()
}

/// A machine with a durable file of 16 blocks of `1`.
fn with_file(seed: u64) -> MemoryIo {
    let io = MemoryIo::new(seed).with_dir("/d");
    io.put(A, vec![1; 16 * 4096]);
    io
}

fn run<T: 'static>(
    io: &MemoryIo,
    scenario: impl AsyncFnOnce(MemoryIo) -> T + 'static,
) -> Result<T, PowerCut> {
    let machine = io.clone();
    io.run(async move { scenario(machine).await })
}

#[test]
fn a_write_is_seen_when_done_and_durable_when_synced() {
    let io = with_file(1);
    run(&io, async |io| {
        let file = io.open(Path::new(A), Access::ReadWrite).await.unwrap();
        file.write_at(block(2, 1), 4096).await.unwrap();
        file.sync().await.unwrap();
        file.write_at(block(3, 1), 8192).await.unwrap();
        assert_eq!(
            file.read_at(0, 16384).await.unwrap().chunks(4096).map(|b| b[0]).collect::<Vec<_>>(),
            [1, 2, 3, 1]
        );
        assert_eq!(file.read_at(15 * 4096, 8192).await.unwrap().len(), 4096);
        assert_eq!(file.read_at(99 * 4096, 8192).await.unwrap().len(), 0);
    })
    .unwrap();
    let firsts =
        |io: &MemoryIo| io.content(A).unwrap().chunks(4096).take(3).map(|b| b[0]).collect::<Vec<_>>();
    assert_eq!(firsts(&io.after_power_cut(Survivors::Synced)), [1, 2, 1]);
    assert_eq!(firsts(&io.after_power_cut(Survivors::All)), [1, 2, 3]);
}

#[test]
fn a_sync_does_not_cover_a_write_that_ends_while_it_runs() {
    let mut covered = 0;
    for seed in 0..50 {
        let io = with_file(seed);
        run(&io, async |io| {
            let file = io.open(Path::new(A), Access::ReadWrite).await.unwrap();
            let (written, synced) = join(file.write_at(block(2, 1), 0), file.sync()).await;
            written.unwrap();
            synced.unwrap();
        })
        .unwrap();
        covered += usize::from(io.after_power_cut(Survivors::Synced).content(A).unwrap()[0] == 2);
    }
    assert_eq!(covered, 0);
}

#[test]
fn unsynced_writes_are_kept_dropped_and_torn_at_sectors() {
    let (mut kept, mut dropped, mut torn, mut reordered) = (0, 0, 0, 0);
    for seed in 0..200 {
        let io = with_file(3);
        run(&io, async |io| {
            let file = io.open(Path::new(A), Access::ReadWrite).await.unwrap();
            file.write_at(block(2, 2), 0).await.unwrap();
            file.write_at(block(3, 2), 8192).await.unwrap();
        })
        .unwrap();
        let content = io.after_power_cut(Survivors::Random(seed)).content(A).unwrap();
        assert!(content.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        let share = |range: std::ops::Range<usize>, byte| count(&content[range], byte);
        match share(0..8192, 2) {
            0 => dropped += 1,
            8192 => kept += 1,
            _ => torn += 1,
        }
        reordered += usize::from(share(0..8192, 2) == 0 && share(8192..16384, 3) == 8192);
        assert_eq!(share(16384..65536, 1), 65536 - 16384);
    }
    assert!(kept > 20 && dropped > 20 && torn > 20 && reordered > 5, "{kept} {dropped} {torn} {reordered}");
}

#[test]
fn names_are_durable_after_their_folder_is_synced() {
    let io = MemoryIo::new(4).with_dir("/d");
    run(&io, async |io| {
        let file = io.open(Path::new("/d/tmp"), Access::CreateNew).await.unwrap();
        file.write_at(block(9, 1), 0).await.unwrap();
        file.sync().await.unwrap();
        io.rename(Path::new("/d/tmp"), Path::new("/d/a")).await.unwrap();
        io.sync_dir(Path::new("/d")).await.unwrap();
        io.rename(Path::new("/d/a"), Path::new("/d/b")).await.unwrap();
        io.open(Path::new("/d/c"), Access::CreateNew).await.unwrap();
        assert_eq!(io.list(Path::new("/d")).await.unwrap().len(), 2);
    })
    .unwrap();
    let names = |io: &MemoryIo| io.paths().iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
    assert_eq!(names(&io), ["/d/b", "/d/c"]);
    let after = io.after_power_cut(Survivors::Synced);
    assert_eq!(names(&after), ["/d/a"]);
    assert_eq!(after.content("/d/a").unwrap(), [9; 4096]);
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..50 {
        seen.insert(names(&io.after_power_cut(Survivors::Random(seed))));
    }
    // Prefixes of what happened, and nothing else.
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [vec!["/d/a"], vec!["/d/b"], vec!["/d/b", "/d/c"]]);
}

#[test]
fn a_folder_that_is_not_durable_takes_its_files_with_it() {
    let io = MemoryIo::new(5);
    run(&io, async |io| {
        io.create_dir(Path::new("/x/y")).await.unwrap();
        io.open(Path::new("/x/y/f"), Access::CreateNew).await.unwrap();
        io.sync_dir(Path::new("/x/y")).await.unwrap();
        io.sync_dir(Path::new("/x")).await.unwrap();
    })
    .unwrap();
    assert!(io.after_power_cut(Survivors::Synced).paths().is_empty());
    let io = io.after_power_cut(Survivors::All);
    assert_eq!(io.paths().len(), 1);
    run(&io, async |io| io.create_dir(Path::new("/x/y")).await).unwrap().unwrap();
    assert_eq!(io.after_power_cut(Survivors::Synced).paths().len(), 1);
}

#[test]
fn nothing_ends_after_the_power_cut() {
    for call in 0..6 {
        let io = with_file(6);
        io.fault_at(call, Fault::PowerCut);
        let reached = Rc::new(Cell::new(0));
        let seen = Rc::clone(&reached);
        let ended = run(&io, async move |io| {
            let file = io.open(Path::new(A), Access::ReadWrite).await.unwrap();
            seen.set(1);
            for step in 0..4 {
                file.write_at(block(2, 1), step * 4096).await.unwrap();
                seen.set(2 + step);
            }
            file.sync().await.unwrap();
            seen.set(6);
        });
        assert_eq!((ended, reached.get()), (Err(PowerCut), call));
        assert_eq!(io.run(async {}), Err(PowerCut));
        let changed = count(&io.after_power_cut(Survivors::All).content(A).unwrap(), 2);
        // The write under way may have reached the device.
        assert_eq!(changed as u64, 4096 * call.min(4));
    }
}

#[test]
fn faults_are_given_to_the_caller() {
    let io = with_file(7);
    io.fault_when(|call| {
        (call.kind == CallKind::Write && call.position == 4096).then_some(Fault::Error(libc::EIO))
    });
    io.fault_at(1, Fault::ShortWrite(512));
    run(&io, async |io| {
        let file = io.open(Path::new(A), Access::ReadWrite).await.unwrap();
        assert_eq!(file.write_at(block(2, 1), 0).await.unwrap(), 512);
        assert_eq!(file.write_at(block(2, 1), 4096).await.unwrap_err().raw_os_error(), Some(libc::EIO));
        let read = file.read_at(0, 8192).await.unwrap();
        assert_eq!(count(&read, 2), 512);
        assert_eq!(file.write_at(block(2, 1), 100).await.unwrap_err().raw_os_error(), Some(libc::EINVAL));
        let reader = io.open(Path::new(A), Access::Read).await.unwrap();
        assert_eq!(reader.write_at(block(2, 1), 0).await.unwrap_err().raw_os_error(), Some(libc::EBADF));
    })
    .unwrap();
}

#[test]
fn what_a_failed_sync_was_asked_for_is_never_made_durable() {
    let io = with_file(8);
    io.fault_at(2, Fault::Error(libc::EIO));
    run(&io, async |io| {
        let file = io.open(Path::new(A), Access::ReadWrite).await.unwrap();
        file.write_at(block(2, 1), 0).await.unwrap();
        assert!(file.sync().await.is_err());
        file.sync().await.unwrap();
        file.write_at(block(3, 1), 4096).await.unwrap();
        file.sync().await.unwrap();
    })
    .unwrap();
    let content = io.after_power_cut(Survivors::Synced).content(A).unwrap();
    assert_eq!((content[0], content[4096]), (1, 3));
}

#[test]
fn a_full_disk_takes_no_more() {
    let io = with_file(9);
    io.set_capacity(Some(18 * 4096));
    run(&io, async |io| {
        let file = io.open(Path::new("/d/b"), Access::CreateNew).await.unwrap();
        file.preallocate(2 * 4096).await.unwrap();
        file.write_at(block(1, 2), 0).await.unwrap();
        assert_eq!(file.write_at(block(1, 1), 8192).await.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(file.preallocate(3 * 4096).await.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        io.remove(Path::new(A)).await.unwrap();
        file.preallocate(3 * 4096).await.unwrap();
    })
    .unwrap();
}

#[test]
fn runs_repeat_and_seeds_differ() {
    let order = |seed| {
        let io = with_file(seed);
        run(&io, async |io| {
            let order = Rc::new(RefCell::new(Vec::new()));
            let file = Rc::new(io.open(Path::new(A), Access::ReadWrite).await.unwrap());
            for index in 0..4 {
                let (order, file) = (Rc::clone(&order), Rc::clone(&file));
                io.spawn(async move {
                    file.write_at(block(index, 1), u64::from(index) * 4096).await.unwrap();
                    order.borrow_mut().push(index);
                });
            }
            while order.borrow().len() < 4 {
                io.yield_now().await;
            }
            order.take()
        })
        .unwrap()
    };
    assert_eq!(order(1), order(1));
    assert!((0..20).map(order).collect::<std::collections::BTreeSet<_>>().len() > 5);
}

#[test]
fn time_passes_without_waiting() {
    let io = MemoryIo::new(1);
    run(&io, async |io| {
        let wall = io.wall_ms();
        io.sleep(Duration::from_hours(1)).await;
        assert_eq!(io.wall_ms() - wall, 3_600_000);
        io.jump_wall_ms(-7_200_000);
        assert_eq!(io.wall_ms() - wall, -3_600_000);
    })
    .unwrap();
}

#[test]
#[should_panic(expected = "will never happen")]
fn waiting_for_ever_is_told() {
    let _ = MemoryIo::new(1).run(std::future::pending::<()>());
}
