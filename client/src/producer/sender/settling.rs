//! Batches are settled by the answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use equeue_net::api::{ProduceAnswer, ProduceOutcome};
use equeue_record::MessageId;

use super::super::completion::BatchReceipt;
use super::super::outbox::Settled;
use super::super::queue::{Queue, Way};
use super::{OnTheWay, Sender, Sent, earliest};
use crate::retry::BatchStep;
use crate::routes::with_causes;
use crate::{ClientError, Code, SendError};

impl Sender {
    /// Settles the batches of a request by its answer.
    pub(super) fn settle(&mut self, request: &OnTheWay, answer: Result<ProduceAnswer, ClientError>) {
        let now = Instant::now();
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.trouble = with_causes(&error);
                for Sent { queue, number, .. } in &request.items {
                    queue.outbox().lost(*number);
                    self.after(queue);
                    self.note_more(queue, now);
                }
                return;
            }
        };
        let status = &answer.status;
        if status.code != Code::Ok && !status.detail.is_empty() {
            self.trouble = format!("{}: {}", status.code, status.detail).into();
        }
        let whole = ProduceOutcome {
            code: status.code,
            level: self.shared.options.level,
            retry_after_ms: status.retry_after_ms,
            base_offset: equeue_record::Offset(0),
            append_time_ms: 0,
        };
        if status.code == Code::Ok && answer.outcomes.len() != request.items.len() {
            request
                .connection
                .end("a Produce answer has another number of outcomes than its request has batches");
        }
        let mut outcomes = answer.outcomes.into_iter();
        let mut pause = None;
        for sent in &request.items {
            let outcome = if status.code == Code::Ok { outcomes.next() } else { Some(whole) };
            match outcome {
                Some(outcome) => self.settle_batch(sent, outcome, &mut pause),
                None => sent.queue.outbox().lost(sent.number),
            }
            self.after(&sent.queue);
            self.note_more(&sent.queue, now);
        }
    }

    /// A batch of the queue was settled: another one may have waited for that, or it is to be sent again.
    fn note_more(&mut self, queue: &Queue, now: Instant) {
        self.settled += 1;
        let again_at = queue.outbox().again_at(now);
        self.again_at = earliest(self.again_at, again_at);
        self.tidy |= queue.place_on(&self.lane).0 != Way::Here;
        self.look = self.look || queue.intake().has_whole();
    }

    /// `pause`: of the whole answer, once a batch of it asked for one.
    fn settle_batch(&mut self, sent: &Sent, outcome: ProduceOutcome, pause: &mut Option<Duration>) {
        let (queue, number) = (&sent.queue, sent.number);
        let step = BatchStep::of(outcome.code);
        if !matches!(step, BatchStep::Stored { .. }) {
            self.trouble = outcome.code.text().into();
        }
        match step {
            BatchStep::Stored { duplicate } => {
                self.backoff.reset();
                let settled = queue.outbox().stored(number);
                if let Some(settled) = settled {
                    self.tell(settled, Ok(self.receipt(sent, &outcome, duplicate)));
                }
            }
            BatchStep::Again | BatchStep::Unclear | BatchStep::Reroute => {
                let pause = match outcome.retry_after_ms {
                    0 => *pause.get_or_insert_with(|| self.backoff.pause()),
                    told => Duration::from_millis(told.into()).min(self.shared.options.send_timeout),
                };
                let not_before = Instant::now() + pause;
                queue.outbox().again(number, not_before, step == BatchStep::Unclear);
                if step == BatchStep::Reroute {
                    self.shared.client.routes.suspect(&queue.topic);
                }
            }
            BatchStep::OutOfSequence => queue.outbox().out_of_sequence(number),
            BatchStep::Refused => {
                let settled = queue.outbox().refused(number);
                if let Some(settled) = settled {
                    self.tell(settled, Err(self.refused(queue, outcome.code)));
                }
            }
        }
    }

    /// To be called after every event of an outbox.
    pub(super) fn after(&self, queue: &Queue) {
        let failed = queue.outbox().settle();
        for settled in failed {
            let error = SendError::OutcomeUnknown { topic: Arc::clone(&queue.topic), queue: queue.ordinal };
            self.tell(settled, Err(error));
        }
    }

    pub(super) fn tell(&self, settled: Settled, outcome: Result<BatchReceipt, SendError>) {
        if let Some(audience) = settled.audience {
            self.shared.tell(&audience, outcome);
        }
        self.shared.reuse(settled.bytes);
    }

    fn receipt(&self, sent: &Sent, outcome: &ProduceOutcome, duplicate: bool) -> BatchReceipt {
        let snapshot = self.shared.client.routes.load();
        let cluster = snapshot.cluster_of(&self.lane.broker).unwrap_or_default();
        BatchReceipt {
            broker: Arc::clone(&self.lane.broker),
            queue: sent.queue.ordinal,
            queue_key: if sent.queue.delayed { sent.key.delay_queue() } else { sent.key },
            base_offset: outcome.base_offset,
            append_time_ms: outcome.append_time_ms,
            level: outcome.level,
            duplicate,
            cluster_check: MessageId::cluster_check(cluster),
        }
    }

    fn refused(&self, queue: &Queue, code: Code) -> SendError {
        SendError::Refused {
            broker: Arc::clone(&self.lane.broker),
            topic: Arc::clone(&queue.topic),
            queue: queue.ordinal,
            code,
        }
    }
}
