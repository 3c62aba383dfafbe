//! The messages in flight of one generator thread, and what became of them.
//!
//! Each producer has as many slots as messages may be in flight; the token that travels with a message names its slot.
//! So the window, the stamp of each message and the count of what is open are one structure, and neither a send nor an
//! acknowledgement allocates.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::{Context, Poll, Waker};

use crate::times::SendTimes;
use crate::verify::Sent;

/// Which part of a run counts, in ns of the run's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// From here on.
    pub from_ns: u64,
    /// Up to here.
    pub until_ns: u64,
}

impl Span {
    /// Nothing counts yet.
    pub(crate) const NEVER: Self = Self { from_ns: u64::MAX, until_ns: u64::MAX };

    pub(crate) const fn contains(&self, ns: u64) -> bool {
        self.from_ns <= ns && ns < self.until_ns
    }
}

/// A message in flight: sixteen bytes, so that the windows of some producers stay in a core's second cache.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// When it was meant to be sent.
    due_ns: u64,
    /// The lower half of its sequence.
    sequence: u32,
    bytes: u32,
}

/// The window of one producer.
#[derive(Debug)]
struct Flight {
    slots: Vec<Slot>,
    /// When the message of each slot was sent; empty in closed loops, which send when they mean to.
    sent_ns: Vec<u64>,
    /// First in, first out: acknowledgements come in order, so that memory is walked through in order.
    free: VecDeque<u32>,
    waker: Option<Waker>,
    sent: u64,
    unacknowledged: BTreeSet<u64>,
}

impl Flight {
    fn new(window: u32, open_loop: bool) -> Self {
        Self {
            slots: vec![Slot::default(); window as usize],
            sent_ns: vec![0; if open_loop { window as usize } else { 0 }],
            free: (0..window).collect(),
            waker: None,
            sent: 0,
            unacknowledged: BTreeSet::new(),
        }
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The sequence of the message in a slot: the last one that was sent with this lower half.
    fn sequence_of(&self, slot: &Slot) -> u64 {
        self.sent - u64::from(lower_half(self.sent).wrapping_sub(slot.sequence))
    }
}

fn lower_half(sequence: u64) -> u32 {
    u32::try_from(sequence & u64::from(u32::MAX)).unwrap_or_default()
}

/// What a thread's producers came to.
#[derive(Debug)]
pub(crate) struct ProduceTally {
    /// How long messages took, since whoever watches looked last.
    pub times: SendTimes,
    /// Messages acknowledged in the span, and their bytes.
    pub acknowledged: u64,
    /// Bytes of the bodies of `acknowledged`.
    pub bytes: u64,
    /// Messages acknowledged at any time.
    pub acknowledged_ever: u64,
    /// Time of the last acknowledgement.
    pub last_ns: u64,
    /// Longest time without one, from one acknowledgement to the next.
    pub silence_ns_max: u64,
    /// Failed messages by code.
    pub errors: BTreeMap<String, u64>,
}

/// Everything about a thread's producers that an acknowledgement changes.
#[derive(Debug)]
pub(crate) struct Ledger {
    flights: Vec<Flight>,
    /// What counts.
    pub span: Span,
    /// The sum so far.
    pub tally: ProduceTally,
}

/// What was taken for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Names its slot.
    pub token: u64,
    /// Its number among the producer's messages.
    pub sequence: u64,
}

impl Ledger {
    /// `producers` windows; open loops keep service time and publish delay as well.
    pub(crate) fn new(producers: usize, window: u32, open_loop: bool) -> Self {
        Self {
            flights: (0..producers).map(|_| Flight::new(window, open_loop)).collect(),
            span: Span::NEVER,
            tally: ProduceTally {
                times: SendTimes::new(open_loop),
                acknowledged: 0,
                bytes: 0,
                acknowledged_ever: 0,
                last_ns: 0,
                silence_ns_max: 0,
                errors: BTreeMap::new(),
            },
        }
    }

    /// Takes a slot for a message that is being sent; `None` when the producer's window is full.
    pub(crate) fn take(&mut self, producer: usize, due_ns: u64, sent_ns: u64, bytes: usize) -> Option<Taken> {
        let flight = self.flights.get_mut(producer)?;
        let index = flight.free.pop_front()?;
        let sequence = flight.sent;
        flight.sent += 1;
        let slot = flight.slots.get_mut(index as usize)?;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        *slot = Slot { due_ns, sequence: lower_half(sequence), bytes };
        if let Some(place) = flight.sent_ns.get_mut(index as usize) {
            *place = sent_ns;
        }
        if let Some(parts) = self.tally.times.parts.as_mut().filter(|_| self.span.contains(due_ns)) {
            parts.publish_delay.record(sent_ns.saturating_sub(due_ns));
        }
        Some(Taken { token: (producer as u64) << 32 | u64::from(index), sequence })
    }

    /// Gives slots back: their messages were acknowledged, or failed with a code.
    pub(crate) fn settle(
        &mut self,
        tokens: impl IntoIterator<Item = u64>,
        now_ns: u64,
        failure: Option<&str>,
    ) {
        for token in tokens {
            self.settle_one(token, now_ns, failure);
        }
    }

    fn settle_one(&mut self, token: u64, now_ns: u64, failure: Option<&str>) {
        let (Ok(producer), Ok(index)) =
            (usize::try_from(token >> 32), u32::try_from(token & u64::from(u32::MAX)))
        else {
            return;
        };
        let Some(flight) = self.flights.get_mut(producer) else { return };
        let Some(slot) = flight.slots.get(index as usize).copied() else { return };
        flight.free.push_back(index);
        if let Some(waker) = flight.waker.take() {
            waker.wake();
        }
        match failure {
            None => {
                let sent_ns = flight.sent_ns.get(index as usize).copied();
                self.acknowledge(&slot, sent_ns, now_ns);
            }
            Some(code) => {
                flight.unacknowledged.insert(flight.sequence_of(&slot));
                *self.tally.errors.entry(code.to_owned()).or_insert(0) += 1;
            }
        }
    }

    fn acknowledge(&mut self, slot: &Slot, sent_ns: Option<u64>, now_ns: u64) {
        let tally = &mut self.tally;
        tally.acknowledged_ever += 1;
        if tally.last_ns > 0 {
            tally.silence_ns_max = tally.silence_ns_max.max(now_ns.saturating_sub(tally.last_ns));
        }
        tally.last_ns = now_ns;
        if self.span.contains(now_ns) {
            tally.acknowledged += 1;
            tally.bytes += u64::from(slot.bytes);
        }
        if self.span.contains(slot.due_ns) {
            tally.times.response.record(now_ns.saturating_sub(slot.due_ns));
            if let (Some(parts), Some(sent_ns)) = (&mut tally.times.parts, sent_ns) {
                parts.service.record(now_ns.saturating_sub(sent_ns));
            }
        }
    }

    /// Ready when the producer has at most `in_flight_max` messages in flight.
    pub(crate) fn poll_at_most(
        &mut self,
        producer: usize,
        in_flight_max: usize,
        cx: &Context<'_>,
    ) -> Poll<()> {
        match self.flights.get_mut(producer) {
            Some(flight) if flight.in_flight() > in_flight_max => {
                flight.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Messages in flight of all producers.
    pub(crate) fn in_flight(&self) -> usize {
        self.flights.iter().map(Flight::in_flight).sum()
    }

    /// What each producer sent; what is still in flight counts as not acknowledged.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        let sent = |flight: &Flight| {
            let mut unacknowledged = flight.unacknowledged.clone();
            let free: BTreeSet<u32> = flight.free.iter().copied().collect();
            let open = (0_u32..).zip(&flight.slots).filter(|(index, _)| !free.contains(index));
            unacknowledged.extend(open.map(|(_, slot)| flight.sequence_of(slot)));
            Sent { sent: flight.sent, unacknowledged }
        };
        self.flights.iter().map(sent).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Latencies;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(2, 2, true);
        ledger.span = Span { from_ns: 1000, until_ns: 2000 };
        ledger
    }

    #[test]
    fn the_window_bounds_what_is_in_flight() {
        let mut ledger = ledger();
        let first = ledger.take(0, 1000, 1000, 10).expect("room");
        let second = ledger.take(0, 1001, 1001, 10).expect("room");
        assert_eq!((first.sequence, second.sequence), (0, 1));
        assert_eq!(ledger.take(0, 1002, 1002, 10), None);
        assert!(ledger.take(1, 1002, 1002, 10).is_some(), "windows are apart");
        let cx = Context::from_waker(Waker::noop());
        assert_eq!(ledger.poll_at_most(0, 1, &cx), Poll::Pending);
        ledger.settle([first.token], 1500, None);
        assert_eq!(ledger.poll_at_most(0, 1, &cx), Poll::Ready(()));
        assert_eq!(ledger.take(0, 1502, 1502, 10).map(|taken| taken.sequence), Some(2));
        assert_eq!(ledger.in_flight(), 3);
    }

    #[test]
    fn a_sequence_is_known_by_its_lower_half() {
        let mut flight = Flight::new(1, false);
        let low = u64::from(u32::MAX);
        for (sequence, sent) in
            [(0, 1), (5, 9), (low - 1, low + 7), (low, low + 1), (low + 1, low + 2), (3 * low, 3 * low + 9)]
        {
            flight.sent = sent;
            let slot = Slot { sequence: lower_half(sequence), ..Slot::default() };
            assert_eq!(flight.sequence_of(&slot), sequence, "of {sent}");
        }
    }

    #[test]
    fn only_the_span_counts() {
        let mut ledger = ledger();
        for (due, acknowledged) in [(10, 20), (900, 1100), (1500, 1600), (1900, 2100)] {
            let taken = ledger.take(0, due, due + 5, 100).expect("room");
            ledger.settle([taken.token], acknowledged, None);
        }
        let tally = &ledger.tally;
        assert_eq!(
            (tally.acknowledged, tally.bytes, tally.acknowledged_ever, tally.last_ns),
            (2, 200, 4, 2100)
        );
        let times = &tally.times;
        assert_eq!(times.response.count(), 2, "those that were due in the span, however long they took");
        let parts = times.parts.as_ref().expect("an open loop");
        let max = |latencies: &Latencies| latencies.percentiles().map(|p| p.max);
        assert_eq!((max(&parts.service), max(&parts.publish_delay)), (Some(0.2), Some(0.0)));
        assert_eq!(tally.silence_ns_max, 1080);
    }

    #[test]
    fn failures_and_what_is_open_are_not_acknowledged() {
        let mut ledger = ledger();
        let failed = ledger.take(1, 1000, 1000, 1).expect("room");
        let good = ledger.take(1, 1000, 1000, 1).expect("room");
        ledger.settle([failed.token], 1001, Some("Busy"));
        ledger.settle([good.token], 1001, None);
        ledger.take(1, 1002, 1002, 1).expect("room");
        assert_eq!(ledger.tally.errors, BTreeMap::from([("Busy".to_owned(), 1)]));
        let sent = ledger.sent();
        assert_eq!(sent[0], Sent::default());
        assert_eq!(sent[1], Sent { sent: 3, unacknowledged: BTreeSet::from([0, 2]) });
    }
}
