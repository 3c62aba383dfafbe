//! Which message each offset of a queue named when it was first heard of (C3). Pure.

use crate::content::Name;

/// One offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The message that was there.
    pub(crate) name: Name,
    /// A consumer was given it, from there on nothing may take it back (C6).
    pub(crate) read: bool,
}

/// Why an offset cannot be taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It named another message before.
    Named(Name),
    /// It lies beyond anything that can have been stored.
    TooFar {
        /// The first offset that is too far.
        limit: u64,
    },
}

/// The offsets of one queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    slots: Vec<Option<Slot>>,
}

impl History {
    /// `offset` names `name`. `limit` bounds what a wrong answer can make this allocate.
    pub(crate) fn note(&mut self, offset: u64, slot: Slot, limit: u64) -> Result<(), Refused> {
        if offset >= limit {
            return Err(Refused::TooFar { limit });
        }
        let place = usize::try_from(offset).map_err(|_| Refused::TooFar { limit })?;
        if place >= self.slots.len() {
            self.slots.resize(place + 1, None);
        }
        match self.slots.get_mut(place) {
            Some(Some(known)) if known.name != slot.name => Err(Refused::Named(known.name)),
            Some(Some(known)) => {
                known.read |= slot.read;
                Ok(())
            }
            Some(empty) => {
                *empty = Some(slot);
                Ok(())
            }
            None => Err(Refused::TooFar { limit }),
        }
    }

    /// All that is known from `offset` on.
    pub(crate) fn from(&self, offset: u64) -> impl Iterator<Item = (u64, Slot)> {
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        (0_u64..).zip(&self.slots).skip(skip).filter_map(|(offset, slot)| slot.map(|slot| (offset, slot)))
    }
}
