//! Lines of a file or pipe, in chunks as they arrive: a line typed by hand is a chunk, a file comes in large ones.
//!
//! A line ends at `\n` and may hold any bytes; what follows the last `\n` is a line too, unless it is empty.

use std::io::{self, Read};
use std::ops::Range;
use std::thread;

use anyhow::Context as _;
use tokio::sync::mpsc;

/// Longest line; a batch may not be larger either.
pub(super) const LINE_BYTES_MAX: usize = 1 << 20;
/// Bytes asked for in one read.
const READ_BYTES: usize = 256 << 10;

/// Several whole lines.
pub(super) struct Lines {
    text: Vec<u8>,
    /// Number of the first one, 1-based, and where each is in `text`; none: it was too long and is left out.
    first: u64,
    spans: Vec<Option<Range<usize>>>,
}

/// A line that no message can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the line is longer than {LINE_BYTES_MAX} bytes; it was not sent")]
pub(super) struct TooLong;

impl Lines {
    /// Number and content of each line.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Result<&[u8], TooLong>)> {
        (self.first..).zip(&self.spans).map(|(number, span)| {
            let body = span.clone().and_then(|span| self.text.get(span));
            (number, body.ok_or(TooLong))
        })
    }

    /// Bytes of input in it.
    pub(super) fn bytes(&self) -> u64 {
        self.text.len() as u64
    }
}

/// Reads on a thread of its own; at most `chunks_max` chunks wait to be taken.
pub(super) fn start(
    source: Box<dyn Read + Send>,
    chunks_max: usize,
) -> anyhow::Result<mpsc::Receiver<io::Result<Lines>>> {
    let (sender, receiver) = mpsc::channel(chunks_max);
    let splitter = Splitter { source, carry: Vec::new(), next: 1, skipping: false };
    thread::Builder::new()
        .name("read-lines".to_owned())
        .spawn(move || splitter.run(&sender))
        .context("cannot start a thread")?;
    Ok(receiver)
}

struct Splitter<R> {
    source: R,
    /// The beginning of a line whose end has not come yet.
    carry: Vec<u8>,
    next: u64,
    /// Inside a line that is too long.
    skipping: bool,
}

impl<R: Read> Splitter<R> {
    fn run(mut self, chunks: &mpsc::Sender<io::Result<Lines>>) {
        loop {
            let chunk = self.chunk();
            let done = !matches!(chunk, Ok(Some(_)));
            let Some(chunk) = chunk.transpose() else { break };
            if chunks.blocking_send(chunk).is_err() || done {
                break;
            }
        }
    }

    /// The next lines; none at the end of the input.
    fn chunk(&mut self) -> io::Result<Option<Lines>> {
        loop {
            let mut text = std::mem::take(&mut self.carry);
            let carried = text.len();
            text.resize(carried + READ_BYTES, 0);
            let room = text.get_mut(carried..).unwrap_or_default();
            let read = match self.source.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    text.truncate(carried);
                    self.carry = text;
                    continue;
                }
                read => read?,
            };
            text.truncate(carried + read);
            let at_end = read == 0;
            let lines = self.split(text, carried, at_end);
            if !lines.spans.is_empty() {
                return Ok(Some(lines));
            }
            if at_end {
                return Ok(None);
            }
        }
    }

    /// Takes the whole lines off the front; the rest is carried. The first `searched` bytes hold no line end.
    fn split(&mut self, mut text: Vec<u8>, searched: usize, at_end: bool) -> Lines {
        let mut spans = Vec::new();
        let mut start = 0;
        let mut from = searched;
        while let Some(found) = text.get(from..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n'))
        {
            let end = from + found;
            spans.push(self.line(start..end));
            start = end + 1;
            from = start;
        }
        self.carry = text.split_off(start);
        if self.carry.len() > LINE_BYTES_MAX {
            // Only its end matters from here on.
            self.skipping = true;
            self.carry.clear();
        }
        if at_end && (self.skipping || !self.carry.is_empty()) {
            let rest = std::mem::take(&mut self.carry);
            spans.push(self.line(text.len()..text.len() + rest.len()));
            text.extend(rest);
        }
        let first = self.next;
        self.next += spans.len() as u64;
        Lines { text, first, spans }
    }

    fn line(&mut self, span: Range<usize>) -> Option<Range<usize>> {
        let too_long = std::mem::take(&mut self.skipping) || span.len() > LINE_BYTES_MAX;
        (!too_long).then_some(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives so many bytes per read.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(into.len());
            let (now, later) = self.0.split_at(count);
            into[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    fn all(text: &[u8], per_read: usize) -> Vec<(u64, Result<Vec<u8>, TooLong>)> {
        let mut splitter =
            Splitter { source: Slow(text, per_read), carry: Vec::new(), next: 1, skipping: false };
        let mut lines = Vec::new();
        while let Some(chunk) = splitter.chunk().unwrap() {
            lines.extend(chunk.iter().map(|(number, body)| (number, body.map(<[u8]>::to_vec))));
        }
        lines
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        let text = b"one\n\ntwo \xff\r\nlast";
        let expected: Vec<(u64, Result<Vec<u8>, TooLong>)> = [&b"one"[..], b"", b"two \xff\r", b"last"]
            .iter()
            .enumerate()
            .map(|(at, line)| (at as u64 + 1, Ok(line.to_vec())))
            .collect();
        for per_read in 1..=text.len() {
            assert_eq!(all(text, per_read), expected, "{per_read} bytes per read");
        }
    }

    #[test]
    fn a_line_end_at_the_end_begins_no_line() {
        assert_eq!(all(b"a\nb\n", 100).len(), 2);
        assert_eq!(all(b"", 100).len(), 0);
    }

    #[test]
    fn a_line_that_is_too_long_is_told_and_the_next_one_is_not() {
        let mut text = vec![b'x'; LINE_BYTES_MAX + 1];
        text.extend_from_slice(b"\nnext\n");
        text.extend(vec![b'y'; LINE_BYTES_MAX]);
        text.extend_from_slice(b"\n");
        text.extend(vec![b'z'; LINE_BYTES_MAX * 3]);
        for per_read in [50_000, 300_000, usize::MAX] {
            let lines = all(&text, per_read);
            let lengths: Vec<_> = lines.iter().map(|(_, body)| body.as_ref().map(Vec::len)).collect();
            assert_eq!(lengths, [Err(&TooLong), Ok(4), Ok(LINE_BYTES_MAX), Err(&TooLong)], "{per_read}");
            assert_eq!(lines.last().map(|(number, _)| *number), Some(4));
        }
    }
}
