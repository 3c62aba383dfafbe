//! What became of every message that was sent, as its producer was told. Pure.

use crate::content::Name;

/// What a producer was told about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing yet.
    Pending,
    /// It is stored, at this offset of its queue.
    Acknowledged {
        /// Where.
        offset: u64,
    },
    /// The same, but heard of when the power was being cut: it proves nothing (see [`super::Evidence::go_dark`]).
    Late {
        /// Where it was said to be.
        offset: u64,
    },
    /// It was not stored.
    Failed,
    /// It may be stored or not.
    Unknown,
}

/// Messages by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// All.
    pub(crate) sent: u64,
    /// Nothing known yet.
    pub(crate) pending: u64,
    /// Acknowledged.
    pub(crate) acknowledged: u64,
    /// Acknowledged while the power was being cut.
    pub(crate) late: u64,
    /// Failed for sure.
    pub(crate) failed: u64,
    /// Perhaps stored.
    pub(crate) unknown: u64,
}

/// The fates of a run: per queue and producer, by sequence.
#[derive(Debug)]
pub(crate) struct Ledger {
    queues: Vec<Vec<Vec<Fate>>>,
    tally: Tally,
}

impl Ledger {
    /// Nothing sent yet.
    pub(crate) fn new(queues: u16, producers: u16) -> Self {
        let queues = (0..queues).map(|_| vec![Vec::new(); usize::from(producers)]).collect();
        Self { queues, tally: Tally::default() }
    }

    /// The next message of a producer for a queue, which is about to be sent.
    pub(crate) fn send(&mut self, producer: u16, queue: u16) -> Name {
        let fates = self
            .queues
            .get_mut(usize::from(queue))
            .and_then(|producers| producers.get_mut(usize::from(producer)))
            .expect("only queues and producers of the run send");
        let sequence = u32::try_from(fates.len()).expect("a run is shorter than 2^32 messages");
        fates.push(Fate::Pending);
        self.tally.sent += 1;
        self.tally.pending += 1;
        Name { producer, queue, sequence }
    }

    /// The producer was told. A second answer for the same message, or one for a message that was never sent, is
    /// refused with what was known before.
    pub(crate) fn settle(&mut self, name: Name, fate: Fate) -> Result<(), Option<Fate>> {
        let slot = self.slot(name).ok_or(None)?;
        if *slot != Fate::Pending {
            return Err(Some(*slot));
        }
        *slot = fate;
        self.tally.pending -= 1;
        match fate {
            Fate::Pending => self.tally.pending += 1,
            Fate::Acknowledged { .. } => self.tally.acknowledged += 1,
            Fate::Late { .. } => self.tally.late += 1,
            Fate::Failed => self.tally.failed += 1,
            Fate::Unknown => self.tally.unknown += 1,
        }
        Ok(())
    }

    /// What became of it; `None`: it was never sent.
    pub(crate) fn fate(&self, name: Name) -> Option<Fate> {
        self.of_queue(name.queue).get(usize::from(name.producer))?.get(name.sequence as usize).copied()
    }

    /// The messages of a queue: per producer, by sequence.
    pub(crate) fn of_queue(&self, queue: u16) -> &[Vec<Fate>] {
        self.queues.get(usize::from(queue)).map_or(&[], Vec::as_slice)
    }

    /// Messages sent to a queue.
    pub(crate) fn sent_to(&self, queue: u16) -> u64 {
        self.of_queue(queue).iter().map(|fates| fates.len() as u64).sum()
    }

    /// The counts.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    fn slot(&mut self, name: Name) -> Option<&mut Fate> {
        self.queues
            .get_mut(usize::from(name.queue))?
            .get_mut(usize::from(name.producer))?
            .get_mut(name.sequence as usize)
    }
}
