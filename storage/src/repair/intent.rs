//! What a repair will do, written down before it does anything. One block of text that an operator can read.

use crate::format::{FORMAT_VERSION, FormatError};
use crate::io::ALIGN;
use crate::types::Position;

use super::Act;

const WHAT: &str = "repair.intent";

/// See the file's own text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    /// What is done.
    pub act: Act,
    /// The segment that is set aside, and whose place a copy takes.
    pub segment: Position,
    /// In the names of the files that are set aside; ms UTC.
    pub stamp_ms: i64,
}

impl Intent {
    /// Name in `lost+found/` of a file that is set aside.
    pub fn kept_name(&self, name: &str) -> String {
        format!("{}-{name}", self.stamp_ms)
    }

    /// Whether the segment or index at `position` is set aside.
    pub(super) fn takes(&self, position: Position) -> bool {
        match self.act {
            Act::Cut(_) => position >= self.segment,
            Act::Quarantine(_) => position == self.segment,
        }
    }

    /// The block.
    pub fn encode(&self) -> Vec<u8> {
        let (act, position) = match self.act {
            Act::Cut(position) => ("cut", position),
            Act::Quarantine(position) => ("quarantine", position),
        };
        let (segment, stamp_ms) = (self.segment, self.stamp_ms);
        let text = format!(
            "# A repair of this log was begun. `equeue log repair` finishes it; the broker does not start before.\n\
             format_version = {FORMAT_VERSION}\nact = \"{act}\"\nposition = {position}\nsegment = {segment}\n\
             stamp_ms = {stamp_ms}\n"
        );
        let crc = crc32c::crc32c(text.as_bytes());
        let mut block = format!("{text}crc32c = \"{crc:08x}\"\n").into_bytes();
        block.resize(ALIGN, b'\n');
        block
    }

    /// Reads a block.
    ///
    /// # Errors
    /// Whatever [`Intent::encode`] did not write.
    pub fn decode(block: &[u8]) -> Result<Self, FormatError> {
        let bad = |line, reason| FormatError::Text { what: WHAT, line, reason };
        let text = str::from_utf8(block).map_err(|_| bad(0, "it is not text"))?;
        let mut lines = text.lines().skip(1);
        let mut line = 1;
        let mut value = |name: &str| {
            line += 1;
            let found = lines.next().and_then(|found| found.strip_prefix(name)?.strip_prefix(" = "));
            found.ok_or(bad(line, "another line is expected here"))
        };
        let number = |text: &str| text.parse().map_err(|_| bad(0, "not a number in its range"));
        let version: u16 =
            value("format_version")?.parse().map_err(|_| bad(2, "not a number in its range"))?;
        if version > FORMAT_VERSION {
            return Err(FormatError::NewerVersion { what: WHAT, found: version, known: FORMAT_VERSION });
        }
        let act = value("act")?;
        let position = Position(number(value("position")?)?);
        let act = match act {
            "\"cut\"" => Act::Cut(position),
            "\"quarantine\"" => Act::Quarantine(position),
            _ => return Err(bad(3, "no act is called so")),
        };
        let segment = Position(number(value("segment")?)?);
        let stamp_ms = value("stamp_ms")?.parse().map_err(|_| bad(6, "not a number in its range"))?;
        let intent = Self { act, segment, stamp_ms };
        // There is one way to write it, the checksum counted.
        if intent.encode() == block {
            Ok(intent)
        } else {
            Err(bad(7, "the checksum is not that of the text"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_every_change_is_noticed() {
        for act in [Act::Cut(Position(8192)), Act::Quarantine(Position(1 << 20))] {
            let intent = Intent { act, segment: Position(1 << 20), stamp_ms: 1_795_000_000_000 };
            let block = intent.encode();
            assert_eq!((block.len(), Intent::decode(&block)), (ALIGN, Ok(intent)));
            for bit in 0..block.len() * 8 {
                let mut bad = block.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(Intent::decode(&bad).is_err(), "bit {bit}");
            }
            assert!(Intent::decode(&block[..4000]).is_err() && Intent::decode(b"").is_err());
        }
    }
}
