//! What the front of a message's body says about it. Pure.
//!
//! A body is a stamp of [`BODY_BYTES_MIN`] bytes followed by random ones, which no codec can shrink:
//!
//! | bytes | what (little endian) |
//! |---|---|
//! | 0..4 | run: random number of the run that sent it |
//! | 4..8 | producer |
//! | 8..16 | sequence: 0, 1, 2... of this producer |
//! | 16..24 | time at which it was (meant to be) sent, ns of the run's clock |
//! | 24..28 | CRC32C of all other bytes of the body; 0 in runs that do not verify |
//!
//! Bodies too short for a stamp are random bytes alone: they can be counted but not checked.

/// Smallest body that carries a stamp.
pub const BODY_BYTES_MIN: usize = 28;

/// Where the checksum lies in a body.
const CRC_AT: usize = 24;

/// What a body says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the run.
    pub run: u32,
    /// Which producer of the run.
    pub producer: u32,
    /// Which message of the producer.
    pub sequence: u64,
    /// When it was (meant to be) sent, ns of the run's clock.
    pub sent_ns: u64,
}

impl Stamp {
    /// Reads the stamp of a body without checking it; `None` when the body is too short for one.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let (run, rest) = body.split_first_chunk()?;
        let (producer, rest) = rest.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (sent_ns, rest) = rest.split_first_chunk()?;
        rest.first_chunk::<4>()?;
        Some(Self {
            run: u32::from_le_bytes(*run),
            producer: u32::from_le_bytes(*producer),
            sequence: u64::from_le_bytes(*sequence),
            sent_ns: u64::from_le_bytes(*sent_ns),
        })
    }

    /// Reads the stamp of a body whose checksum is right; `None` when it is not.
    #[must_use]
    pub fn read_checked(body: &[u8]) -> Option<Self> {
        let stamp = Self::read(body)?;
        let stored = body.get(CRC_AT..)?.first_chunk()?;
        (u32::from_le_bytes(*stored) == checksum(body)).then_some(stamp)
    }

    /// Writes the stamp to the front of a body, with a checksum over the whole if `checked`. A body too short for
    /// it stays as it is.
    pub fn write(&self, body: &mut [u8], checked: bool) {
        let Some(front) = body.first_chunk_mut::<BODY_BYTES_MIN>() else { return };
        let message =
            u128::from(self.run) | u128::from(self.producer) << 32 | u128::from(self.sequence) << 64;
        let (place, rest) = front.split_at_mut(16);
        place.copy_from_slice(&message.to_le_bytes());
        let (place, rest) = rest.split_at_mut(8);
        place.copy_from_slice(&self.sent_ns.to_le_bytes());
        rest.fill(0);
        if checked {
            let crc = checksum(body).to_le_bytes();
            if let Some(place) = body.get_mut(CRC_AT..BODY_BYTES_MIN) {
                place.copy_from_slice(&crc);
            }
        }
    }
}

/// CRC32C of a body without the four bytes that hold it.
fn checksum(body: &[u8]) -> u32 {
    let (stamp, rest) = body.split_at_checked(CRC_AT).unwrap_or((body, &[]));
    let tail = rest.get(BODY_BYTES_MIN - CRC_AT..).unwrap_or(&[]);
    crc32c::crc32c_append(crc32c::crc32c(stamp), tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 7, producer: 3, sequence: 1 << 40, sent_ns: 12_345_678_901 };

    #[test]
    fn a_stamp_comes_back() {
        for len in [BODY_BYTES_MIN, BODY_BYTES_MIN + 1, 1000] {
            let mut body = vec![0xa5; len];
            STAMP.write(&mut body, true);
            assert_eq!(Stamp::read_checked(&body), Some(STAMP));
            assert!(body[BODY_BYTES_MIN..].iter().all(|byte| *byte == 0xa5));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut body = vec![0x5a; 64];
        STAMP.write(&mut body, true);
        for bit in 0..body.len() * 8 {
            body[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Stamp::read_checked(&body), None, "bit {bit}");
            body[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..body.len() {
            assert_eq!(Stamp::read_checked(&body[..len]), None, "cut to {len}");
        }
    }

    #[test]
    fn short_bodies_stay_random() {
        let mut body = [9; BODY_BYTES_MIN - 1];
        STAMP.write(&mut body, true);
        assert_eq!(body, [9; BODY_BYTES_MIN - 1]);
        assert_eq!(Stamp::read(&body), None);
    }
}
