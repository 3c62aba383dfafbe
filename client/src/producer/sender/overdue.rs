//! What is over its time, and what cannot be sent here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::lane::Reach;
use super::super::queue::Queue;
use super::super::shared::Counters;
use super::{EXPIRY_EVERY, Sender};
use crate::SendError;

impl Sender {
    /// Fails what is over its time, and sends elsewhere what may go elsewhere and cannot go here.
    pub(super) fn expire(&mut self, now: Instant) {
        if now < self.next_expiry {
            return;
        }
        self.next_expiry = now + EXPIRY_EVERY;
        (self.look, self.tidy, self.again_at) = (true, true, Some(now));
        let limit = self.shared.options.send_timeout;
        for queue in &self.active {
            let error = |outcome_unknown| SendError::TimedOut {
                topic: Arc::clone(&queue.topic),
                queue: queue.ordinal,
                after: limit,
                outcome_unknown,
                last: Arc::clone(&self.trouble),
            };
            let unsent = queue.intake().take_expired(now, limit);
            self.shared.fail_unsent(unsent, &error(false));
            let expired = queue.outbox().expire(now, limit);
            for expired in expired {
                self.shared.tell(&expired.audience, Err(error(expired.unknown)));
            }
            self.drop_old_one_way(queue, now, limit);
            self.after(queue);
        }
        self.move_free_batches();
    }

    fn drop_old_one_way(&self, queue: &Queue, now: Instant, limit: Duration) {
        let mut intake = queue.intake();
        if let Some(old) =
            intake.one_way.take_if(|batch| now.saturating_duration_since(batch.opened) >= limit)
        {
            Counters::add(&self.shared.counters.dropped, u64::from(old.builder.record_count()));
        }
    }

    /// Batches whose messages may go anywhere leave a queue that cannot be sent to.
    pub(super) fn move_free_batches(&self) {
        let down = self.lane.reach() == Reach::Down;
        for queue in &self.active {
            if !down && queue.key().is_some() {
                continue;
            }
            let Some(refuge) = self.shared.refuge(queue) else { continue };
            let _moving = self.shared.moving();
            let free = queue.intake().take_free();
            if free.is_empty() {
                continue;
            }
            let mut intake = refuge.intake();
            for batch in free {
                Counters::add(&self.shared.counters.moved, u64::from(batch.builder.record_count()));
                intake.adopt(batch);
            }
            self.shared.list_or_fail(&refuge, intake);
        }
    }
}
