//! The delayed messages of a log beside the log: what its marks say, and which parts of its delay queues are still to be
//! looked through after a start.

use std::cell::{Cell, RefCell};

use equeue_record::{Offset, QueueKey};
use equeue_storage::io::{DmaIo, Io as _};

use super::marks::{Bits, decode_floor};
use super::table::DelayTable;
use crate::shard::signal::Signal;
use crate::shard::state::{Log, LogHost};
use crate::state_key;

/// A part of a delay queue that was stored before this start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unread {
    pub(crate) number: u32,
    pub(crate) from: Offset,
    pub(crate) to: Offset,
}

/// The delayed messages of a log.
#[derive(Debug)]
pub(crate) struct DelayHost {
    pub(crate) table: RefCell<DelayTable>,
    /// When the task that delivers looks next, ms UTC.
    pub(crate) look_ms: Cell<i64>,
    /// Something is due before that.
    pub(crate) sooner: Signal,
    /// Messages on the ready list have no bytes yet.
    pub(crate) to_load: Signal,
    /// Bytes are being read ahead of time.
    pub(crate) in_pass: Cell<bool>,
    /// To be looked through.
    pub(crate) unread: RefCell<Vec<Unread>>,
    /// That is done: every message that waits is in the table.
    pub(crate) all_found: Cell<bool>,
}

impl DelayHost {
    /// Reads the marks of a log that was just opened, and opens its delay queues.
    pub(crate) fn open(log: &Log, io: &DmaIo, waiting_max: u64) -> Self {
        let mut table = DelayTable::new(io.wall_ms(), waiting_max);
        let mut floors = Vec::new();
        log.state_with_prefix(&[state_key::DELAY_FLOOR], &mut |key, value| {
            let target = key.get(1..).and_then(state_key::read_queue);
            match target.zip(decode_floor(value)) {
                Some(known) => floors.push(known),
                None => {
                    tracing::error!(?key, "a delay queue's entry has a layout that this build does not know");
                }
            }
        });
        let mut unread = Vec::new();
        for (target, floor) in floors {
            log.open_queue(target.delay_queue());
            let number = table.open(target);
            let Some(queue) = table.queue_mut(number) else { continue };
            queue.marks.restore_floor(floor);
            log.state_with_prefix(&state_key::delay_blocks(target), &mut |key, value| {
                if let Some((block, bits)) = state_key::read_block(key).zip(Bits::decode(value)) {
                    queue.marks.restore(block, bits);
                } else {
                    tracing::error!(?key, "delay marks have a layout that this build does not know");
                }
            });
            if let Some(bounds) = log.bounds(target.delay_queue()) {
                let from = bounds.start.max(Offset(queue.marks.full_to()));
                unread.push(Unread { number, from, to: bounds.durable_end });
            }
        }
        Self {
            table: RefCell::new(table),
            look_ms: Cell::new(i64::MAX),
            sooner: Signal::default(),
            to_load: Signal::default(),
            in_pass: Cell::new(false),
            all_found: Cell::new(unread.is_empty()),
            unread: RefCell::new(unread),
        }
    }

    /// Wakes the task that delivers when something is due before it would look.
    pub(crate) fn due_at(&self, due_ms: i64) {
        if due_ms < self.look_ms.get() {
            self.sooner.set();
        }
    }

    /// The delay queue of a message's id, if there is one.
    pub(crate) fn number(&self, queue: QueueKey) -> Option<u32> {
        queue.is_delay_queue().then(|| self.table.borrow().number(queue.target())).flatten()
    }
}

/// The queue is gone: nothing waits for it any more. Gives the keys of its entries in the log, to be removed.
pub(crate) fn forget(host: &LogHost, target: QueueKey) -> Vec<Vec<u8>> {
    if host.delay.table.borrow_mut().forget(target).is_none() {
        return Vec::new();
    }
    let mut keys = vec![state_key::delay_floor(target)];
    host.log.state_with_prefix(&state_key::delay_blocks(target), &mut |key, _| keys.push(key.to_vec()));
    keys
}
