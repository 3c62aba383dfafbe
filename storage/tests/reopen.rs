//! What was acknowledged is there after a restart, orderly or not: on real files and in memory.

mod common;

use std::path::{Path, PathBuf};

use common::{batch, read_all, small};
use equeue_record::{Offset, QueueKey};
use equeue_storage::LogId;
use equeue_storage::io::memory::{MemoryIo, Survivors};
use equeue_storage::io::{DmaIo, Io};
use equeue_storage::log::{AtomicPart, CommitLog, LogOptions};

async fn fill<I: Io>(log: &CommitLog<I>, queues: u64, from: u32, to: u32) {
    let mut last = log.durable();
    for n in from..to {
        let queue = QueueKey(1 + u64::from(n) % queues);
        log.open_queue(queue);
        let body = [n.to_le_bytes().as_slice(), &vec![7; n as usize % 5000]].concat();
        loop {
            match log.append(queue, batch(&[&body, b"second"])) {
                Ok(appended) => {
                    last = appended.ticket;
                    break;
                }
                Err(error) => {
                    assert!(matches!(error, equeue_storage::log::AppendError::Busy { .. }), "{error}");
                    log.wait_durable(last).await.unwrap();
                }
            }
        }
    }
    log.wait_durable(last).await.unwrap();
}

async fn check<I: Io>(log: &CommitLog<I>, queues: u64, to: u32) {
    for queue in 1..=queues {
        log.open_queue(QueueKey(queue));
        let expected: Vec<u32> = (0..to).filter(|n| 1 + u64::from(*n) % queues == queue).collect();
        let bounds = log.bounds(QueueKey(queue)).unwrap();
        assert_eq!(bounds.durable_end, Offset(2 * expected.len() as u64));
        let found = read_all(log, QueueKey(queue), Offset(0), 100_000).await;
        let found: Vec<u32> =
            found.iter().step_by(2).map(|body| u32::from_le_bytes(body[..4].try_into().unwrap())).collect();
        assert_eq!(found, expected, "queue {queue}");
    }
}

async fn scenario<I: Io>(io: I, dir: PathBuf, options: LogOptions) {
    let (log, found) = CommitLog::open(io.clone(), dir.clone(), LogId(3), options.clone()).await.unwrap();
    assert!(found.clean);
    fill(&log, 5, 0, 700).await;
    let state = |key: &'static str, value: Option<&'static str>| AtomicPart::State {
        key: key.into(),
        value: value.map(Into::into),
    };
    log.append_atomic(vec![state("a", Some("1")), state("b", Some("2"))]).unwrap();
    let ticket = log.append_atomic(vec![state("a", None), state("c", Some("3"))]).unwrap();
    log.wait_durable(ticket).await.unwrap();
    check(&log, 5, 700).await;
    log.close().await.unwrap();
    assert!(log.append(QueueKey(1), batch(&[b"x"])).is_err(), "closed");

    let (log, found) = CommitLog::open(io.clone(), dir.clone(), LogId(3), options.clone()).await.unwrap();
    assert!(found.clean, "{found:?}");
    check(&log, 5, 700).await;
    fill(&log, 5, 700, 1000).await;
    check(&log, 5, 1000).await;
    assert_eq!(
        (log.state(b"a"), log.state(b"b"), log.state(b"c")),
        (None, Some("2".into()), Some("3".into()))
    );
    log.close().await.unwrap();
}

#[test]
fn on_real_files() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = dir.path().to_owned();
    glommio::LocalExecutorBuilder::default()
        .io_memory(8 << 20)
        .spawn(move || async move {
            let io = DmaIo::new(&path).await.unwrap();
            scenario(io, path.join("log-3"), small()).await;
        })
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn in_memory() {
    for seed in 0..5 {
        let io = MemoryIo::new(seed);
        io.run(scenario(io.clone(), "/data/log-3".into(), small())).unwrap();
    }
}

#[test]
fn after_power_cuts() {
    let dir = Path::new("/data/log-0");
    let mut io = MemoryIo::new(1);
    for round in 0..6 {
        io.run({
            let io = io.clone();
            async move {
                let (log, found) = CommitLog::open(io, dir.into(), LogId(0), small()).await.unwrap();
                assert_eq!(found.clean, round == 0, "{found:?}");
                check(&log, 3, round * 200).await;
                fill(&log, 3, round * 200, (round + 1) * 200).await;
            }
        })
        .unwrap();
        io = io.after_power_cut(Survivors::Random(u64::from(round)));
    }
}
