//! Produce: batches into logs. The hot path: nothing per message, little per batch, one list entry per request.

use std::rc::Rc;

use bytes::Bytes;
use equeue_net::api::{AckLevel, ProduceAnswer, ProduceItem, ProduceOutcome, ProduceRef, Status};
use equeue_net::frame::{FLAG_ONE_WAY, Frame};
use equeue_net::{Code, put_produce_answer};
use equeue_record::{BatchHeader, Offset, QueueKey, RecordError, is_delayed};
use equeue_storage::log::AppendError;

use super::RETRY_MS;
use crate::catalog::shard_of;
use crate::delay;
use crate::shard::answers::{Tickets, fail_outcomes, note};
use crate::shard::router;
use crate::shard::session::{ProduceHold, Session};
use crate::shard::state::Shard;

/// When to try again after `DISK_FULL`, ms.
const DISK_FULL_RETRY_MS: u32 = 1000;

/// Batches that were appended, or why not.
#[derive(Debug, Default)]
pub(crate) struct Appends {
    /// One per batch.
    pub(crate) outcomes: Vec<ProduceOutcome>,
    /// What must become durable before they may be told.
    pub(crate) tickets: Tickets,
}

/// Batches for one other shard: place in the request, queue, bytes.
pub(crate) type Remote = (u16, Vec<(usize, QueueKey, Bytes)>);

/// Serves a Produce request.
pub(crate) fn handle(shard: &Rc<Shard>, session: &Rc<Session>, frame: &Frame) {
    let correlation = frame.head.correlation;
    let one_way = frame.head.flags & FLAG_ONE_WAY != 0;
    let request = match ProduceRef::decode(&frame.header, frame.payload.len()) {
        Ok(request) => request,
        Err(error) => {
            if !one_way {
                session.fail::<ProduceAnswer>(correlation, Status::new(Code::Invalid, error.to_string()));
            }
            return;
        }
    };
    shard.stats.produce_requests.add(1);
    let level = request.level();
    let (appends, remote) = append_all(shard, level, request.items(), &frame.payload);
    if !remote.is_empty() {
        let hold = hold(shard, session, frame.payload.len());
        return router::produce(
            shard,
            session,
            router::Forward { correlation, one_way, level, appends, remote, hold },
        );
    }
    if one_way {
        count_dropped(shard, &appends.outcomes);
    } else if level == AckLevel::Memory || appends.tickets.is_empty() {
        answer(session, correlation, &appends.outcomes);
    } else {
        let hold = hold(shard, session, frame.payload.len());
        let Appends { outcomes, tickets } = appends;
        let to_list =
            session.answers.borrow_mut().push(correlation, outcomes, shard.now_us(), hold, &tickets);
        for place in to_list {
            if let Some(host) = shard.logs.get(place) {
                host.waiters.borrow_mut().push(Rc::clone(session));
            }
        }
    }
}

/// Appends what is this shard's; sorts out what is not.
fn append_all(
    shard: &Shard,
    level: AckLevel,
    items: impl ExactSizeIterator<Item = ProduceItem>,
    payload: &Bytes,
) -> (Appends, Vec<Remote>) {
    let mut appends = Appends { outcomes: Vec::with_capacity(items.len()), tickets: Tickets::new() };
    let mut remote: Vec<Remote> = Vec::new();
    let mut at = 0;
    for (index, item) in items.enumerate() {
        let end = at + item.bytes as usize; // the decoder checked that the items add up to the payload
        let batch = payload.slice(at..end);
        at = end;
        let other = shard.other_shard(item.queue);
        match other {
            None => appends.append(shard, level, item.queue, batch),
            Some(other) => {
                appends.outcomes.push(refused(Code::Busy, RETRY_MS));
                match remote.iter_mut().find(|(to, _)| *to == other) {
                    Some((_, batches)) => batches.push((index, item.queue, batch)),
                    None => remote.push((other, vec![(index, item.queue, batch)])),
                }
            }
        }
    }
    (appends, remote)
}

impl Appends {
    /// Appends one batch to a queue of this shard.
    pub(crate) fn append(&mut self, shard: &Shard, level: AckLevel, queue: QueueKey, batch: Bytes) {
        let outcome = match self.try_append(shard, level, queue, batch) {
            Ok(outcome) => outcome,
            Err(outcome) => {
                shard.stats.batches_refused.add(1);
                outcome
            }
        };
        self.outcomes.push(outcome);
    }

    fn try_append(
        &mut self,
        shard: &Shard,
        level: AckLevel,
        queue: QueueKey,
        batch: Bytes,
    ) -> Result<ProduceOutcome, ProduceOutcome> {
        if level == AckLevel::Replicated {
            return Err(refused(Code::Unsupported, 0)); // there are no slaves
        }
        let home = shard.home(queue).ok_or_else(|| refused(shard.unknown_queue(queue), 0))?;
        if !home.writable {
            return Err(refused(Code::QueueSealed, 0));
        }
        if shard.broker.writes_stopped() {
            return Err(refused(Code::LogFailed, 0));
        }
        debug_assert_eq!(shard_of(home.log, shard.shards()), shard.index, "others were sorted out");
        let (place, host) = shard.log_of(&home).ok_or_else(|| refused(Code::Internal, 0))?;
        let bytes = batch.len();
        let records = BatchHeader::parse(&batch).map_or(0, |header| header.record_count);
        let delayed = is_delayed(&batch);
        let appended = if delayed {
            delay::append(shard, host, queue, batch)?
        } else {
            host.log.append(queue, batch).map_err(|error| outcome_of(&error))?
        };
        if delayed && !appended.duplicate {
            shard.stats.delayed_accepted.add(u64::from(records));
        }
        if appended.duplicate {
            shard.stats.batches_duplicate.add(1);
        } else {
            shard.stats.batches_produced.add(1);
            shard.stats.bytes_produced.add(bytes as u64);
            shard.stats.messages_produced.add(u64::from(records));
        }
        if appended.ticket > host.log.durable() {
            note(&mut self.tickets, place, appended.ticket);
        }
        Ok(ProduceOutcome {
            code: if appended.duplicate { Code::Duplicate } else { Code::Ok },
            level: shard.broker.level_reached(level),
            retry_after_ms: 0,
            base_offset: appended.base_offset,
            append_time_ms: appended.append_time_ms,
        })
    }

    /// The outcomes, once they are durable (or as they are, if durability was not asked for).
    pub(crate) async fn settled(self, shard: Rc<Shard>, level: AckLevel) -> Vec<ProduceOutcome> {
        let mut outcomes = self.outcomes;
        if level != AckLevel::Memory {
            for (place, ticket) in self.tickets {
                let Some(host) = shard.logs.get(place) else { continue };
                if host.log.wait_durable(ticket).await.is_err() {
                    fail_outcomes(&mut outcomes);
                }
            }
        }
        outcomes
    }
}

/// Counts a request's bytes against its connection and the shard.
fn hold(shard: &Shard, session: &Session, bytes: usize) -> ProduceHold {
    shard.unanswered_bytes.set(shard.unanswered_bytes.get() + bytes);
    ProduceHold { _connection: session.link.hold(bytes), bytes }
}

/// Answers now.
pub(crate) fn answer(session: &Session, correlation: u32, outcomes: &[ProduceOutcome]) {
    let put = session.link.push(|out| put_produce_answer(out, correlation, &Status::OK, outcomes));
    if let Err(error) = put {
        tracing::error!(%error, "a Produce answer does not fit a frame");
    }
}

/// Counts the batches of a one-way request that were not stored.
pub(crate) fn count_dropped(shard: &Shard, outcomes: &[ProduceOutcome]) {
    let stored = |outcome: &&ProduceOutcome| matches!(outcome.code, Code::Ok | Code::Duplicate);
    let dropped = outcomes.len() - outcomes.iter().filter(stored).count();
    shard.stats.one_way_dropped.add(dropped as u64);
}

/// An outcome without a stored batch.
pub(crate) fn refused(code: Code, retry_after_ms: u32) -> ProduceOutcome {
    ProduceOutcome {
        code,
        level: AckLevel::Memory,
        retry_after_ms,
        base_offset: Offset(0),
        append_time_ms: 0,
    }
}

/// What the log's refusal is on the wire.
pub(crate) fn outcome_of(error: &AppendError) -> ProduceOutcome {
    match error {
        AppendError::Busy { .. } => refused(Code::Busy, RETRY_MS),
        AppendError::DiskFull => refused(Code::DiskFull, DISK_FULL_RETRY_MS),
        AppendError::Poisoned { .. } => refused(Code::LogFailed, 0),
        AppendError::NoQueue { .. } => refused(Code::QueueNotFound, 0),
        AppendError::TooLarge { .. } | AppendError::Record(RecordError::TooLarge { .. }) => {
            refused(Code::MessageTooLarge, 0)
        }
        AppendError::Record(RecordError::Version { .. }) => refused(Code::Unsupported, 0),
        AppendError::Record(_) => refused(Code::Corrupt, 0),
        AppendError::SequenceGap { expected, .. } => {
            let expected = u64::from(expected.cast_unsigned());
            ProduceOutcome { base_offset: Offset(expected), ..refused(Code::SequenceGap, 0) }
        }
        AppendError::UnknownProducer { .. } => refused(Code::UnknownProducer, 0),
        AppendError::StaleProducer { .. } => refused(Code::StaleEpoch, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_the_log_have_their_codes() {
        let code = |error: AppendError| outcome_of(&error).code;
        assert_eq!(code(AppendError::Busy { pending: 1, limit: 1 }), Code::Busy);
        assert_eq!(code(AppendError::DiskFull), Code::DiskFull);
        assert_eq!(code(AppendError::TooLarge { bytes: 2, limit: 1 }), Code::MessageTooLarge);
        assert_eq!(code(RecordError::Checksum { found: 1, computed: 2 }.into()), Code::Corrupt);
        assert_eq!(code(RecordError::Version { found: 9, known: 1 }.into()), Code::Unsupported);
        let gap = outcome_of(&AppendError::SequenceGap { expected: -1, found: 5 });
        assert_eq!((gap.code, gap.base_offset), (Code::SequenceGap, Offset(u64::from(u32::MAX))));
        assert!(outcome_of(&AppendError::DiskFull).retry_after_ms > 0);
    }
}
