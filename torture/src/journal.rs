//! The journal of a life on disk, outside the directory that is tortured: what every producer sent and was told.
//!
//! One line per event: `S` sent, `A` acknowledged (with queue and offset), `F` failed, `U` unknown; then producer,
//! queue, sequence. Remarks tell when the power was cut and came back: what was acknowledged between is no promise. It is for people who look into a violation; the oracle has the same in memory.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use anyhow::Context as _;

use crate::content::Name;

/// A journal that is being written. After a failed write it says so once and writes nothing more.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Option<BufWriter<File>>,
}

impl Journal {
    /// Creates the file.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { file: Some(BufWriter::with_capacity(1 << 16, file)) })
    }

    /// A message is about to be sent.
    pub(crate) fn sent(&mut self, name: Name) {
        self.line('S', name, None);
    }

    /// It was acknowledged.
    pub(crate) fn acknowledged(&mut self, name: Name, offset: u64) {
        self.line('A', name, Some(offset));
    }

    /// It was not.
    pub(crate) fn failed(&mut self, name: Name, certain: bool) {
        self.line(if certain { 'F' } else { 'U' }, name, None);
    }

    /// A remark, such as the beginning of a round.
    pub(crate) fn remark(&mut self, text: &str) {
        self.attempt(|file| writeln!(file, "# {text}").and_then(|()| file.flush()));
    }

    fn line(&mut self, event: char, name: Name, offset: Option<u64>) {
        let Name { producer, queue, sequence } = name;
        self.attempt(|file| match offset {
            Some(offset) => writeln!(file, "{event} {producer} {queue} {sequence} @{offset}"),
            None => writeln!(file, "{event} {producer} {queue} {sequence}"),
        });
    }

    fn attempt(&mut self, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = write(file) {
            crate::say(&format!("the journal cannot be written, the run goes on without: {error}"));
            self.file = None;
        }
    }
}
