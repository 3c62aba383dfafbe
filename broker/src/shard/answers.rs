//! Answers of one connection that wait until what they tell is durable.
//!
//! **Invariants**: a request is answered once, when every log that it was appended to has made it durable, or with
//! `LOG_FAILED` when one of them failed; completing costs in proportion to what completes. Pure.

use std::collections::VecDeque;

use equeue_net::Code;
use equeue_net::api::ProduceOutcome;
use equeue_storage::Ticket;
use slab::Slab;
use smallvec::SmallVec;

/// The newest append of a request in each log (by its place on the shard) that it touched.
pub(crate) type Tickets = SmallVec<[(usize, Ticket); 1]>;

/// Notes an append: keeps the newest ticket per log.
pub(crate) fn note(tickets: &mut Tickets, log: usize, ticket: Ticket) {
    match tickets.iter_mut().find(|(known, _)| *known == log) {
        Some((_, newest)) => *newest = ticket.max(*newest),
        None => tickets.push((log, ticket)),
    }
}

/// A Produce request that is appended and not durable yet.
#[derive(Debug)]
pub(crate) struct Unanswered<H> {
    /// The request's.
    pub(crate) correlation: u32,
    /// What will be told.
    pub(crate) outcomes: Vec<ProduceOutcome>,
    /// When it came, microseconds of the shard's clock.
    pub(crate) since_us: u64,
    /// What is held until it is answered.
    pub(crate) hold: H,
    logs_left: usize,
}

#[derive(Debug, Default)]
struct Lane {
    order: VecDeque<(Ticket, usize)>,
    /// The connection is on the log's list of those to look at after a flush.
    listed: bool,
}

/// The waiting answers of one connection.
#[derive(Debug)]
pub(crate) struct Answers<H> {
    waiting: Slab<Unanswered<H>>,
    /// By the log's place on the shard.
    lanes: SmallVec<[Lane; 1]>,
}

impl<H> Answers<H> {
    /// For a shard with so many logs.
    pub(crate) fn new(logs: usize) -> Self {
        Self { waiting: Slab::new(), lanes: (0..logs).map(|_| Lane::default()).collect() }
    }

    /// Adds a request that waits for `tickets` (not empty). Gives the logs on whose list the connection must be put.
    pub(crate) fn push(
        &mut self,
        correlation: u32,
        outcomes: Vec<ProduceOutcome>,
        since_us: u64,
        hold: H,
        tickets: &Tickets,
    ) -> SmallVec<[usize; 1]> {
        let request = Unanswered { correlation, outcomes, since_us, hold, logs_left: tickets.len() };
        let key = self.waiting.insert(request);
        let mut to_list = SmallVec::new();
        for &(log, ticket) in tickets {
            let lane = self.lanes.get_mut(log).expect("a ticket names a log of this shard");
            // A duplicate's ticket is that of the original: it waits behind what was asked before it.
            let ticket = lane.order.back().map_or(ticket, |(last, _)| ticket.max(*last));
            lane.order.push_back((ticket, key));
            if !std::mem::replace(&mut lane.listed, true) {
                to_list.push(log);
            }
        }
        to_list
    }

    /// Gives every request to `answer` whose last log has come up to it. Returns whether more wait for this log; if
    /// not, the connection leaves the log's list.
    pub(crate) fn complete(
        &mut self,
        log: usize,
        durable: Ticket,
        mut answer: impl FnMut(Unanswered<H>),
    ) -> bool {
        let Some(lane) = self.lanes.get_mut(log) else { return false };
        while let Some((_, key)) = lane.order.pop_front_if(|(ticket, _)| *ticket <= durable) {
            if let Some(request) = finish_one(&mut self.waiting, key) {
                answer(request);
            }
        }
        lane.listed = !lane.order.is_empty();
        lane.listed
    }

    /// The log failed: everything that waits for it is answered so.
    pub(crate) fn fail(&mut self, log: usize, mut answer: impl FnMut(Unanswered<H>)) {
        let Some(lane) = self.lanes.get_mut(log) else { return };
        lane.listed = false;
        for (_, key) in lane.order.drain(..) {
            if let Some(request) = self.waiting.get_mut(key) {
                fail_outcomes(&mut request.outcomes);
            }
            if let Some(request) = finish_one(&mut self.waiting, key) {
                answer(request);
            }
        }
    }

    /// Gives out everything that waits: the connection is closed.
    pub(crate) fn clear(&mut self, each: impl FnMut(Unanswered<H>)) {
        for lane in &mut self.lanes {
            lane.order.clear();
        }
        self.waiting.drain().for_each(each);
    }

    /// Requests that wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

/// One log of a request is done; gives the request when it was the last.
fn finish_one<H>(waiting: &mut Slab<Unanswered<H>>, key: usize) -> Option<Unanswered<H>> {
    let request = waiting.get_mut(key)?;
    request.logs_left -= 1;
    (request.logs_left == 0).then(|| waiting.remove(key))
}

/// What was stored is of unknown fate now.
pub(crate) fn fail_outcomes(outcomes: &mut [ProduceOutcome]) {
    for outcome in outcomes.iter_mut().filter(|outcome| matches!(outcome.code, Code::Ok | Code::Duplicate)) {
        outcome.code = Code::LogFailed;
    }
}

#[cfg(test)]
mod tests {
    use equeue_net::api::AckLevel;
    use equeue_record::Offset;

    use super::*;

    fn outcome(code: Code) -> ProduceOutcome {
        ProduceOutcome {
            code,
            level: AckLevel::Durable,
            retry_after_ms: 0,
            base_offset: Offset(0),
            append_time_ms: 0,
        }
    }

    fn push(answers: &mut Answers<()>, correlation: u32, tickets: &[(usize, u64)]) -> Vec<usize> {
        let mut noted = Tickets::new();
        for &(log, ticket) in tickets {
            note(&mut noted, log, Ticket(ticket));
        }
        answers.push(correlation, vec![outcome(Code::Ok), outcome(Code::Busy)], 0, (), &noted).to_vec()
    }

    fn complete(answers: &mut Answers<()>, log: usize, durable: u64) -> (Vec<u32>, bool) {
        let mut done = Vec::new();
        let more = answers.complete(log, Ticket(durable), |request| done.push(request.correlation));
        (done, more)
    }

    #[test]
    fn requests_complete_in_order_up_to_the_ticket() {
        let mut answers = Answers::new(1);
        assert_eq!(push(&mut answers, 1, &[(0, 3)]), [0]);
        assert_eq!(push(&mut answers, 2, &[(0, 3)]), Vec::<usize>::new());
        assert_eq!(push(&mut answers, 3, &[(0, 4), (0, 5)]), Vec::<usize>::new());
        assert_eq!(complete(&mut answers, 0, 2), (vec![], true));
        assert_eq!(complete(&mut answers, 0, 4), (vec![1, 2], true));
        assert_eq!(complete(&mut answers, 0, 5), (vec![3], false));
        assert_eq!(push(&mut answers, 4, &[(0, 6)]), [0]);
        // A duplicate of something older waits its turn.
        push(&mut answers, 5, &[(0, 2)]);
        assert_eq!(complete(&mut answers, 0, 5), (vec![], true));
        assert_eq!(complete(&mut answers, 0, 6), (vec![4, 5], false));
    }

    #[test]
    fn a_request_over_two_logs_waits_for_both() {
        let mut answers = Answers::new(2);
        assert_eq!(push(&mut answers, 1, &[(0, 1), (1, 9)]), [0, 1]);
        push(&mut answers, 2, &[(1, 10)]);
        assert_eq!(complete(&mut answers, 0, 1), (vec![], false));
        assert_eq!(complete(&mut answers, 1, 10), (vec![1, 2], false));
        assert_eq!(answers.len(), 0);
    }

    #[test]
    fn a_failed_log_fails_what_was_stored_and_only_that() {
        let mut answers = Answers::new(2);
        push(&mut answers, 1, &[(0, 1), (1, 1)]);
        let mut failed = Vec::new();
        answers.fail(0, |request| failed.push(request));
        assert!(failed.is_empty());
        answers.complete(1, Ticket(1), |request| failed.push(request));
        let codes: Vec<Code> = failed[0].outcomes.iter().map(|outcome| outcome.code).collect();
        assert_eq!(codes, [Code::LogFailed, Code::Busy]);
    }

    #[test]
    fn a_closed_connection_leaves_nothing() {
        let mut answers = Answers::new(1);
        push(&mut answers, 1, &[(0, 1)]);
        answers.clear(drop);
        assert_eq!((answers.len(), complete(&mut answers, 0, 9)), (0, (vec![], false)));
    }
}
