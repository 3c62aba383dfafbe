//! Sending costs the client no allocation per message: what it allocates is per batch.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::Cluster;
use equeue_client::{Client, Message, Producer, ProducerOptions};

/// Counts the allocations of each thread: broker and nameserver run on others.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

#[expect(unsafe_code, reason = "an allocator is one by its nature")]
// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TOPIC: &str = "allocations";
const BODY: &[u8] = &[7; 100];
/// Messages handed over before the runtime runs the client's tasks: they share batches.
const BURST: u64 = 500;

async fn send(producer: &Producer, bursts: u64, acknowledged: &AtomicU64) {
    for burst in 0..bursts {
        for message in 0..BURST {
            let token = burst * BURST + message;
            producer.enqueue_with(&Message::new(TOPIC, BODY), token).await.expect("taken");
        }
        tokio::task::yield_now().await;
    }
    producer.flush().await;
    assert_eq!(acknowledged.swap(0, Ordering::Relaxed), bursts * BURST);
}

#[test]
fn sending_allocates_per_batch_and_not_per_message() {
    const BURSTS: u64 = 200;
    let cluster = Cluster::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client =
            Client::builder().nameservers([cluster.nameserver()]).connect().await.expect("options are right");
        for result in client.admin().create_topic(TOPIC, 1).await.expect("a broker") {
            result.result.expect("created");
        }
        let acknowledged = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&acknowledged);
        let options = ProducerOptions {
            on_delivery: Some(Arc::new(move |outcomes| {
                for (_, result) in outcomes.iter() {
                    result.expect("acknowledged");
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            })),
            ..ProducerOptions::default()
        };
        let producer = client.producer(options);
        send(&producer, 20, &acknowledged).await;
        let (allocations, batches) = (ALLOCATIONS.get(), producer.stats().batches);
        send(&producer, BURSTS, &acknowledged).await;
        let allocations = ALLOCATIONS.get() - allocations;
        let batches = producer.stats().batches - batches;
        let messages = BURSTS * BURST;
        println!("{messages} messages in {batches} batches: {allocations} allocations");
        assert!(batches * 20 < messages, "messages share batches, or this test shows nothing: {batches}");
        assert!(allocations * 10 < messages, "{allocations} allocations for {messages} messages");
        producer.close().await;
        client.close().await;
    });
}
