//! Finds the messages that wait after a start: looks through every delay queue from its first message that is not done.
//!
//! The queues are gone through in step, in the order of append times, which is about that of the log: what lies side by
//! side comes from disk once. **Invariant**: what cannot be read is told, and then not everything counts as found.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use equeue_storage::io::Io as _;
use equeue_storage::log::ReadBatches;

use super::host::Unread;
use super::load;
use super::run::{AHEAD_MS, goes_on};
use super::wheel::Waiting;
use crate::shard::state::{LogHost, Shard};

/// Looks through what was stored before this start.
pub(super) async fn run(shard: Rc<Shard>, place: usize) {
    let Some(host) = shard.logs.get(place) else { return };
    let begun = shard.now_ms();
    let unread = host.delay.unread.take();
    let bytes_max = load::turn_bytes(unread.len());
    // With the append time that each has come to.
    let mut parts: BinaryHeap<_> = unread.into_iter().map(|part| Reverse((i64::MIN, part))).collect();
    let mut all = true;
    while goes_on(&shard, host)
        && let Some(Reverse((_, part))) = parts.pop()
    {
        if part.from >= part.to {
            continue;
        }
        match look_at(host, part, bytes_max).await {
            Some((time_ms, left)) => parts.push(Reverse((time_ms, left))),
            None => all = false,
        }
        shard.io.yield_now().await;
    }
    host.delay.all_found.set(all && parts.is_empty());
    let waiting = host.delay.table.borrow().waiting();
    let took_ms = shard.now_ms() - begun;
    tracing::info!(log = %host.id, waiting, took_ms, "delayed messages found");
}

/// Looks through the beginning of a part; gives the append time that it came to and what is left. `None`: it cannot be
/// read.
async fn look_at(host: &LogHost, part: Unread, bytes_max: usize) -> Option<(i64, Unread)> {
    let done = Unread { from: part.to, ..part };
    let target = host.delay.table.borrow().queue(part.number).map(|queue| queue.target);
    let Some(target) = target else { return Some((i64::MAX, done)) };
    match load::read(&host.log, target.delay_queue(), part.from, bytes_max).await {
        Ok(batches) if batches.next_offset > part.from => {
            let time_ms = note(host, part, &batches);
            Some((time_ms, Unread { from: batches.next_offset, ..part }))
        }
        Ok(_) => Some((i64::MAX, done)),
        Err(error) => {
            tracing::error!(%target, offset = %part.from, %error,
                "delayed messages cannot be read: those from this offset on are not delivered before a restart");
            None
        }
    }
}

/// Notes when the messages of a read are due; gives the append time of the last one.
fn note(host: &LogHost, part: Unread, batches: &ReadBatches) -> i64 {
    let (mut first_ms, mut time_ms) = (i64::MAX, i64::MIN);
    let mut table = host.delay.table.borrow_mut();
    let result = load::for_each(batches, &mut |delayed| {
        time_ms = delayed.append_time_ms;
        let offset = delayed.record.offset;
        if offset >= part.from && offset < part.to {
            first_ms = first_ms.min(delayed.due_ms);
            if delayed.id_offset != offset
                && let Some(known) = table.queue_mut(part.number)
            {
                known.carried.insert(delayed.id_offset.0, offset.0);
            }
            table.insert(Waiting { due_ms: delayed.due_ms, queue: part.number, offset: offset.0 });
        }
    });
    drop(table);
    if let Err(error) = result {
        tracing::error!(delay_queue = part.number, offset = %part.from, %error, "a delayed batch is malformed");
    }
    host.delay.due_at(first_ms.saturating_sub(AHEAD_MS));
    time_ms
}
