//! Which records of a queue are done, as bits: a record that is delivered, cancelled or handed back is marked in the same
//! append that makes it so. Pure.
//!
//! ```text
//! entry   value: u8 version (1), 64 bytes of bits, the first record of the block in bit 0 of byte 0
//! floor   value: u8 version (1), u64 offset: every record before it is done
//! ```
//! A block stands for 512 records and is one state entry of at most 65 bytes; a block that is full at the front goes into
//! the floor. So what is stored is in proportion to the records between the first that waits and the last, an eighth of
//! a byte each.
//!
//! **Invariant**: a plan changes nothing until it is applied, which is done once its entries are appended.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Records of a block.
pub const BLOCK_RECORDS: u64 = 512;
const WORDS: usize = 8;
const VERSION: u8 = 1;
/// Bytes of a block's value.
pub const BLOCK_VALUE_LEN: usize = 1 + WORDS * 8;

/// The bits of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bits([u64; WORDS]);

/// The marks of one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    floor: u64,
    blocks: BTreeMap<u64, Bits>,
}

/// What a change of marks stores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkPlan {
    /// Blocks with their new bits.
    pub blocks: BTreeMap<u64, Bits>,
    /// Blocks whose entries go away.
    pub removed: Vec<u64>,
    /// The new floor, if it moves.
    pub floor: Option<u64>,
}

impl Bits {
    fn place(offset: u64) -> (usize, u64) {
        let bit = offset % BLOCK_RECORDS;
        (usize::try_from(bit / 64).expect("below 8"), 1 << (bit % 64))
    }

    /// Whether the record of this offset is marked.
    pub fn has(&self, offset: u64) -> bool {
        let (word, mask) = Self::place(offset);
        self.0.get(word).is_some_and(|bits| bits & mask != 0)
    }

    fn set(&mut self, offset: u64) {
        let (word, mask) = Self::place(offset);
        if let Some(bits) = self.0.get_mut(word) {
            *bits |= mask;
        }
    }

    fn is_full(&self) -> bool {
        self.0.iter().all(|bits| *bits == u64::MAX)
    }

    /// As it is stored.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(BLOCK_VALUE_LEN);
        out.push(VERSION);
        self.0.iter().for_each(|bits| out.extend_from_slice(&bits.to_le_bytes()));
        Bytes::from(out)
    }

    /// Reads what is stored; `None`: not in a layout that this build knows.
    pub fn decode(value: &[u8]) -> Option<Self> {
        let (&VERSION, rest) = value.split_first()? else { return None };
        let (words, []) = rest.as_chunks::<8>() else { return None };
        let words: &[[u8; 8]; WORDS] = words.try_into().ok()?;
        Some(Self(words.map(u64::from_le_bytes)))
    }
}

/// A floor as it is stored.
pub fn encode_floor(floor: u64) -> Bytes {
    let mut out = vec![VERSION];
    out.extend_from_slice(&floor.to_le_bytes());
    Bytes::from(out)
}

/// Reads a floor; `None`: not in a layout that this build knows.
pub fn decode_floor(value: &[u8]) -> Option<u64> {
    let (&VERSION, rest) = value.split_first()? else { return None };
    rest.try_into().ok().map(u64::from_le_bytes)
}

impl Marks {
    /// Takes over a stored floor.
    pub fn restore_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
    }

    /// Takes over a stored block.
    pub fn restore(&mut self, block: u64, bits: Bits) {
        self.blocks.insert(block, bits);
    }

    /// Every record before it is done.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Whether a record is done.
    pub fn is_done(&self, offset: u64) -> bool {
        offset < self.floor || self.blocks.get(&(offset / BLOCK_RECORDS)).is_some_and(|bits| bits.has(offset))
    }

    /// The end of the full blocks at the front.
    pub fn full_to(&self) -> u64 {
        let mut block = self.floor / BLOCK_RECORDS;
        while self.blocks.get(&block).is_some_and(Bits::is_full) {
            block += 1;
        }
        self.floor.max(block * BLOCK_RECORDS)
    }

    /// Marks records as done, and everything before `floor`.
    pub fn plan(&self, offsets: impl IntoIterator<Item = u64>, floor: u64) -> MarkPlan {
        let mut plan = MarkPlan { floor: (floor > self.floor).then_some(floor), ..MarkPlan::default() };
        let floor = floor.max(self.floor);
        for offset in offsets.into_iter().filter(|offset| *offset >= floor) {
            let block = offset / BLOCK_RECORDS;
            let known = || self.blocks.get(&block).copied().unwrap_or_default();
            plan.blocks.entry(block).or_insert_with(known).set(offset);
        }
        plan.removed.extend(self.blocks.range(..floor / BLOCK_RECORDS).map(|(block, _)| *block));
        plan
    }

    /// The plan's entries were appended.
    pub fn apply(&mut self, plan: &MarkPlan) {
        for block in &plan.removed {
            self.blocks.remove(block);
        }
        self.blocks.extend(plan.blocks.iter().map(|(block, bits)| (*block, *bits)));
        self.floor = self.floor.max(plan.floor.unwrap_or_default());
    }

    /// Blocks that are kept.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = u64> {
        self.blocks.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_round_trip_and_the_rest_is_refused() {
        let mut bits = Bits::default();
        for offset in [0, 63, 64, 511] {
            bits.set(offset);
        }
        let value = bits.encode();
        assert_eq!((Bits::decode(&value), value.len()), (Some(bits), BLOCK_VALUE_LEN));
        let floor = encode_floor(7 << 40);
        assert_eq!(decode_floor(&floor), Some(7 << 40));
        for len in 0..value.len() {
            assert_eq!(Bits::decode(&value[..len]), None);
        }
        for len in 0..floor.len() {
            assert_eq!(decode_floor(&floor[..len]), None);
        }
        let mut newer = value.to_vec();
        newer[0] = 2;
        assert_eq!(Bits::decode(&newer), None);
    }

    #[test]
    fn full_blocks_at_the_front_become_the_floor() {
        let mut marks = Marks::default();
        marks.apply(&marks.plan(0..1500, 0));
        assert_eq!((marks.full_to(), marks.blocks().len()), (1024, 3));
        let plan = marks.plan([1500], marks.full_to());
        assert_eq!((plan.floor, &plan.removed[..], plan.blocks.len()), (Some(1024), &[0, 1][..], 1));
        marks.apply(&plan);
        assert!(marks.is_done(1500) && marks.is_done(3) && !marks.is_done(1501));
        assert_eq!(marks.blocks().collect::<Vec<_>>(), [2]);
    }

    proptest! {
        #[test]
        fn marks_are_a_set_and_what_is_stored_restores_them(
            steps in proptest::collection::vec((proptest::collection::vec(0_u64..4000, 0..200), any::<bool>()), 1..20),
        ) {
            let (mut marks, mut set) = (Marks::default(), BTreeSet::new());
            let (mut stored, mut floor) = (BTreeMap::new(), 0);
            for (offsets, advance) in steps {
                let plan = marks.plan(offsets.iter().copied(), if advance { marks.full_to() } else { 0 });
                for block in &plan.removed {
                    stored.remove(block);
                }
                stored.extend(plan.blocks.iter().map(|(block, bits)| (*block, bits.encode())));
                floor = plan.floor.unwrap_or(floor);
                marks.apply(&plan);
                set.extend(offsets);
                prop_assert!((0..4000).all(|offset| marks.is_done(offset) == set.contains(&offset)));
            }
            let mut again = Marks::default();
            again.restore_floor(floor);
            for (block, value) in stored {
                again.restore(block, Bits::decode(&value).unwrap());
            }
            prop_assert_eq!(again, marks);
        }
    }
}
