//! What waiting costs.
//!
//! CPU time is that of the whole process: this file has one test, so that it is alone in its process under every test
//! runner.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it would panic"
)]

mod common;

use std::time::{Duration, Instant};

use common::{Client, batch, start, stop, until};

/// What waits costs nothing: ten thousand fetches are parked, a message wakes the ten that wait for its queue, and while
/// nothing comes the broker hardly runs.
#[test]
fn ten_thousand_parked_fetches_cost_nothing_until_their_queue_is_written_to() {
    const QUEUES: u32 = 1_000;
    const CLIENTS: usize = 10;
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut producer = Client::connect(broker.address());
    let keys: Vec<_> = producer.create_topic("t", QUEUES).queues.iter().map(|queue| queue.key).collect();
    let stats = &broker.broker().stats[0];
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(broker.address())).collect();
    let mut asked = Vec::new();
    for client in &mut clients {
        for (fetch_id, key) in keys.iter().enumerate() {
            let correlation = client.send_fetch(fetch_id as u32, 60_000, &[(*key, 0)], &[]);
            if fetch_id == 77 {
                asked.push(correlation);
            }
        }
    }
    until("all to be parked", || stats.fetches_parked.get() == 10_000);

    let (cpu, begun) = (equeue_broker::process::usage().cpu_us, Instant::now());
    std::thread::sleep(Duration::from_secs(3)); // the length of a measurement, nothing is waited for
    let used = equeue_broker::process::usage().cpu_us - cpu;
    let passed = u64::try_from(begun.elapsed().as_micros()).unwrap();
    assert!(used * 100 < passed * 3, "idle, and {used} us of CPU are used in {passed} us");

    producer.produce_ok(&[(keys[77], batch(&[b"for 77"]))]);
    for (client, correlation) in clients.iter_mut().zip(asked) {
        let (_, batches) = client.fetched(correlation);
        assert_eq!((batches[0].queue, batches[0].bodies.as_slice()), (keys[77], &[b"for 77".to_vec()][..]));
    }
    assert_eq!((stats.fetches_woken.get(), stats.fetches_parked.get()), (10, 9_990));
    stop(broker);
}
