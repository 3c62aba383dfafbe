//! Leaves out batches none of whose records bears a wanted tag. Whole batches only: the consumer filters the records.

use equeue_record::{RecordError, split_first, tag_hashes};
use equeue_storage::log::LogSlice;

/// What is left of a read.
#[derive(Debug, Default)]
pub(super) struct Filtered {
    pub(super) pieces: Vec<LogSlice>,
    pub(super) bytes: usize,
}

/// Keeps the batches of `pieces` with a record of one of `tags`.
///
/// # Errors
/// The pieces are not whole batches: the log is not what it should be.
pub(super) fn keep_tagged(pieces: Vec<LogSlice>, tags: &[u32]) -> Result<Filtered, RecordError> {
    let mut kept = Filtered::default();
    for piece in pieces {
        let memory: &[u8] = (*piece.memory).as_ref();
        let mut rest = memory.get(piece.range.clone()).unwrap_or_default();
        let mut at = piece.range.start;
        // The run of wanted batches that is being gone through, to be one slice.
        let mut run = at..at;
        while !rest.is_empty() {
            let (header, len) = split_first(rest)?;
            if tag_hashes(rest, &header).any(|hash| tags.contains(&hash)) {
                if run.end != at {
                    kept.push(&piece, std::mem::replace(&mut run, at..at));
                }
                run.end = at + len;
            }
            at += len;
            rest = rest.get(len..).unwrap_or_default();
        }
        kept.push(&piece, run);
    }
    Ok(kept)
}

impl Filtered {
    fn push(&mut self, piece: &LogSlice, range: std::ops::Range<usize>) {
        if !range.is_empty() {
            self.bytes += range.len();
            self.pieces.push(LogSlice { memory: piece.memory.clone(), range });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use equeue_record::{BatchBuilder, Codec, NO_PRODUCER, ProducerStamp, RecordFields, tag_hash};

    use super::*;

    fn batch(tags: &[Option<&str>]) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Codec::None, 1 << 16);
        for tag in tags {
            builder
                .push(&RecordFields { tag: *tag, body: Some(b"body"), ..RecordFields::default() })
                .unwrap();
        }
        let stamp = ProducerStamp { producer_id: NO_PRODUCER, producer_epoch: 0, base_sequence: 0 };
        builder.finish(stamp).unwrap().to_vec()
    }

    fn bytes(filtered: &Filtered) -> Vec<Vec<u8>> {
        let slice = |piece: &LogSlice| -> Vec<u8> { (*piece.memory).as_ref()[piece.range.clone()].to_vec() };
        filtered.pieces.iter().map(slice).collect()
    }

    #[test]
    fn runs_of_wanted_batches_stay_in_one_piece() {
        let (a, b, none) = (batch(&[Some("a"), None]), batch(&[Some("b")]), batch(&[None]));
        let memory = [&none[..], &a, &a, &b, &a, &none].concat();
        let piece = LogSlice { range: 0..memory.len(), memory: Rc::new(memory) };
        let kept = keep_tagged(vec![piece.clone()], &[tag_hash("a")]).unwrap();
        assert_eq!(bytes(&kept), [[&a[..], &a].concat(), a.clone()]);
        assert_eq!(kept.bytes, 3 * a.len());
        let kept = keep_tagged(vec![piece.clone()], &[tag_hash("a"), tag_hash("b")]).unwrap();
        assert_eq!(bytes(&kept).concat(), [&a[..], &a, &b, &a].concat());
        assert_eq!(kept.pieces.len(), 1);
        assert_eq!(keep_tagged(vec![piece], &[tag_hash("c")]).unwrap().bytes, 0);
    }

    #[test]
    fn what_is_no_batch_is_an_error() {
        let piece = LogSlice { memory: Rc::new(vec![7_u8; 100]), range: 0..100 };
        assert!(keep_tagged(vec![piece], &[1]).is_err());
    }
}
