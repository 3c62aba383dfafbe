//! The work that every message costs on its way, without clock, disk or network: to be run under an instruction counter.
//!
//! Builds batches as a producer does, checks and stamps them as a broker does, reads them as a consumer does, and prints
//! how many messages that were and how often memory was allocated. Two runs of different length give, by their
//! difference, the cost of a message without what a process costs to start.
//!
//! `valgrind --tool=callgrind target/release/examples/work 20000`

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use equeue_bench::sizes::Sizes;
use equeue_bench::stamp::Stamp;
use equeue_bench::workload::BodyPool;
use equeue_record::{
    BROKER_PART_LEN, BatchBuilder, BatchView, BrokerStamp, Codec, Decompressor, MasterEpoch, Offset,
    ProducerStamp, QueueKey, RecordFields, check_batch,
};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

#[expect(unsafe_code, reason = "an allocator is one by its nature")]
// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes of a message.
const BODY_BYTES: usize = 1000;
/// Messages of a batch.
const BATCH_MESSAGES: u64 = 100;

#[expect(clippy::print_stdout, reason = "it is read by a script")]
fn main() -> Result<()> {
    let messages: u64 = std::env::args().nth(1).context("work MESSAGES")?.parse().context("MESSAGES")?;
    let sizes = Sizes::range(BODY_BYTES, BODY_BYTES).map_err(anyhow::Error::msg)?;
    let mut pool = BodyPool::new(sizes, 1);
    let mut memory = Decompressor::new();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let (mut done, mut bytes) = (0, 0_u64);
    while done < messages {
        bytes += one_batch(&mut pool, &mut memory, done)?;
        done += BATCH_MESSAGES;
    }
    ensure!(bytes == done * BODY_BYTES as u64, "{bytes} bytes of {done} messages came back");
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    println!("{{\"messages\":{done},\"allocations\":{allocations}}}");
    Ok(())
}

/// From the producer's hands to the consumer's; bytes of the bodies that came out.
fn one_batch(pool: &mut BodyPool, memory: &mut Decompressor, first: u64) -> Result<u64> {
    let mut builder = BatchBuilder::new(Codec::None, 256 * 1024);
    for sequence in first..first + BATCH_MESSAGES {
        let stamp = Stamp { run: 1, producer: 0, sequence, sent_ns: 0 };
        let body = pool.body(BODY_BYTES, &stamp, false);
        builder.push(&RecordFields { body: Some(body), ..RecordFields::default() }).context("room")?;
    }
    let batch = builder.finish(ProducerStamp::NONE).context("a batch")?;
    check_batch(&batch).context("checking as a broker does")?;
    let mut stored = batch.to_vec();
    let front: &mut [u8; BROKER_PART_LEN] = stored.first_chunk_mut().context("a whole batch")?;
    let stamp = BrokerStamp {
        base_offset: Offset(first),
        append_time_ms: 1,
        queue_key: QueueKey(1 << 40),
        master_epoch: MasterEpoch(1),
    };
    equeue_record::stamp(front, &stamp);
    let view = BatchView::parse(&stored).context("checking as a consumer does")?;
    let mut bytes = 0;
    for record in view.records(memory)? {
        bytes += record?.body.map_or(0, <[u8]>::len) as u64;
    }
    Ok(bytes)
}
