//! What a member writes down, in a file that outlives it: one record of fixed size per event, by one write each, so that
//! what was written before a kill -9 counts.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, ErrorKind, Read as _, Write as _};
use std::path::Path;

use anyhow::Context as _;
use nix::time::{ClockId, clock_gettime};

/// Bytes of a record.
const RECORD: usize = 40;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum What {
    /// A handler took a message and handled it.
    Handled = 0,
    /// A handler took a message and failed: it was handed back.
    Failed = 1,
    /// A queue was granted.
    Assigned = 2,
    /// A queue was given back or lost.
    GivenUp = 3,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// When, us of `CLOCK_BOOTTIME`: the same clock for all processes of the machine.
    pub(super) at_us: i64,
    pub(super) what: What,
    /// Index of the group.
    pub(super) group: u8,
    pub(super) attempt: u8,
    /// It came from the topic itself, not from a retry queue.
    pub(super) direct: bool,
    /// Index of the topic.
    pub(super) topic: u32,
    pub(super) queue: u32,
    pub(super) offset: u64,
    /// The message's number.
    pub(super) number: u64,
}

/// Now, us of `CLOCK_BOOTTIME`.
pub(super) fn now_us() -> i64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock");
    time.tv_sec() * 1_000_000 + time.tv_nsec() / 1000
}

impl Event {
    fn encode(&self) -> [u8; RECORD] {
        let mut record = [0; RECORD];
        let fields: [&[u8]; 7] = [
            &self.at_us.to_le_bytes(),
            &[self.what as u8, self.group, self.attempt, u8::from(self.direct)],
            &self.topic.to_le_bytes(),
            &self.queue.to_le_bytes(),
            &[0; 4],
            &self.offset.to_le_bytes(),
            &self.number.to_le_bytes(),
        ];
        let mut place = record.iter_mut();
        for byte in fields.into_iter().flatten() {
            *place.next().expect("40 bytes in all") = *byte;
        }
        record
    }

    fn decode(record: &[u8; RECORD]) -> anyhow::Result<Self> {
        let u32_at =
            |at: usize| u32::from_le_bytes(std::array::from_fn(|i| record.get(at + i).copied().unwrap_or(0)));
        let u64_at =
            |at: usize| u64::from_le_bytes(std::array::from_fn(|i| record.get(at + i).copied().unwrap_or(0)));
        let [what, group, attempt, direct] = u32_at(8).to_le_bytes();
        let what = match what {
            0 => What::Handled,
            1 => What::Failed,
            2 => What::Assigned,
            3 => What::GivenUp,
            other => anyhow::bail!("no event has the number {other}"),
        };
        Ok(Self {
            at_us: i64::from_le_bytes(u64_at(0).to_le_bytes()),
            what,
            group,
            attempt,
            direct: direct != 0,
            topic: u32_at(12),
            queue: u32_at(16),
            offset: u64_at(24),
            number: u64_at(32),
        })
    }
}

/// Where a member writes.
#[derive(Debug)]
pub(super) struct Diary(File);

impl Diary {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self(file.with_context(|| format!("cannot open {}", path.display()))?))
    }

    /// One write; a member that cannot write must not go on.
    pub(super) fn note(&self, event: &Event) {
        (&self.0).write_all(&event.encode()).expect("the diary can be written");
    }
}

/// Gives everything that a member wrote to `each`, in order. A record that it was killed in the middle of is left out.
pub(super) fn read(path: &Path, mut each: impl FnMut(Event)) -> anyhow::Result<()> {
    let reading = || format!("cannot read {}", path.display());
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).with_context(reading)?);
    let mut record = [0; RECORD];
    loop {
        match file.read_exact(&mut record) {
            Ok(()) => each(Event::decode(&record).with_context(reading)?),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error).with_context(reading),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back() {
        let event = Event {
            at_us: -5,
            what: What::Failed,
            group: 1,
            attempt: 3,
            direct: true,
            topic: 2,
            queue: 7,
            offset: u64::MAX - 1,
            number: 1 << 40,
        };
        assert_eq!(Event::decode(&event.encode()).unwrap(), event);
    }

    #[test]
    fn a_record_that_was_cut_short_is_left_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let event = Event {
            at_us: 1,
            what: What::Assigned,
            group: 0,
            attempt: 0,
            direct: true,
            topic: 0,
            queue: 0,
            offset: 0,
            number: 0,
        };
        let (whole, cut) = (event.encode(), &event.encode()[..7]);
        std::fs::write(file.path(), [&whole, cut].concat()).unwrap();
        let mut events = Vec::new();
        read(file.path(), |event| events.push(event)).unwrap();
        assert_eq!(events, [event]);
    }
}
