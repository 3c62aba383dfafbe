//! What goes to stdout: tables for people, JSON for programs.
//!
//! Every write of the binary to stdout goes through [`Output`]: a reader that has gone away becomes
//! [`OutputClosed`], which ends the command in silence.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};

use anyhow::Context as _;
use serde::Serialize;

use crate::failure::OutputClosed;

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON value, or one object a line where the output is a stream.
    Json,
}

/// A buffered, locked stdout.
pub(crate) struct Output {
    writer: BufWriter<StdoutLock<'static>>,
}

impl Output {
    /// Takes stdout for this thread.
    pub(crate) fn stdout() -> Self {
        Self { writer: BufWriter::with_capacity(64 << 10, io::stdout().lock()) }
    }

    /// Writes raw bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        told(self.writer.write_all(bytes))
    }

    /// Writes a text and a line end.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> anyhow::Result<()> {
        self.bytes(text.as_ref().as_bytes())?;
        self.bytes(b"\n")
    }

    /// Writes one JSON object on one line.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        // Into a text first: an error of the writer would lose its kind inside serde_json's.
        let text = serde_json::to_string(value).context("cannot write a value as JSON")?;
        self.line(text)
    }

    /// Writes one JSON value on several lines.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(value).context("cannot write a value as JSON")?;
        self.line(text)
    }

    /// Hands what is buffered to the reader.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        told(self.writer.flush())
    }
}

fn told(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        Err(error) => Err(error).context("cannot write to stdout"),
    }
}

/// Tells people something; a stderr that is closed leaves nobody to tell.
pub(crate) fn to_stderr(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether stdout may be coloured: a terminal, and nobody said `NO_COLOR`.
pub(crate) fn stdout_is_coloured() -> bool {
    io::stdout().is_terminal() && colour_is_allowed()
}

/// Whether stderr may be coloured.
pub(crate) fn stderr_is_coloured() -> bool {
    io::stderr().is_terminal() && colour_is_allowed()
}

fn colour_is_allowed() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Columns of text, left-aligned but for those that hold numbers.
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Prints the table, or what it would say when it is empty.
    pub(crate) fn print(&self, output: &mut Output, when_empty: &str) -> anyhow::Result<()> {
        if self.rows.is_empty() {
            return output.line(when_empty);
        }
        for (at, line) in self.lines().into_iter().enumerate() {
            let is_head = at == 0 && stdout_is_coloured();
            if is_head { output.line(format!("\x1b[1m{line}\x1b[0m"))? } else { output.line(line)? }
        }
        Ok(())
    }

    fn lines(&self) -> Vec<String> {
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let mut lines = vec![String::new(); self.rows.len() + 1];
        for (column, head) in self.head.iter().enumerate() {
            let cells: Vec<String> = std::iter::once((*head).to_owned())
                .chain(self.rows.iter().map(|row| cell(row, column)))
                .collect();
            let width = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
            let is_last = column + 1 == self.head.len();
            let is_number =
                cells.iter().skip(1).all(|cell| cell == "-" || cell.parse::<f64>().is_ok_and(f64::is_finite));
            for (line, text) in lines.iter_mut().zip(cells) {
                let padding = " ".repeat(width.saturating_sub(text.chars().count()));
                match (is_number, is_last) {
                    (true, _) => line.extend([padding.as_str(), text.as_str()]),
                    (false, true) => line.push_str(&text),
                    (false, false) => line.extend([text.as_str(), padding.as_str()]),
                }
                if !is_last {
                    line.push_str("  ");
                }
            }
        }
        lines.iter().map(|line| line.trim_end().to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_are_right_aligned() {
        let mut table = Table::new(&["TOPIC", "QUEUES", "STATE"]);
        table.row(["orders".into(), "4".into(), "ok".into()]);
        table.row(["a".into(), "128".into(), "creating".into()]);
        assert_eq!(
            table.lines(),
            ["TOPIC   QUEUES  STATE", "orders       4  ok", "a          128  creating"]
        );
    }
}
