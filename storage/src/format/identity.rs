//! The identity file: what a data directory is. Written once, synced, never changed.
//!
//! Text, so that an operator can read it, with the CRC32C of all lines before in the last one. There is exactly one
//! way to write an identity: reading means parsing, writing again and comparing, so any change is noticed.

use std::fmt::Write as _;

use uuid::Uuid;

use super::{FORMAT_VERSION, FormatError};

/// Longest name of a cluster or broker, bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// No identity file is longer, bytes.
pub const IDENTITY_BYTES_MAX: usize = 4096;
/// Largest broker group number: it has 24 bits.
pub const BROKER_GROUP_MAX: u32 = (1 << 24) - 1;

const WHAT: &str = "identity file";
const FIRST_LINE: &str = "# EQueue data directory. Written once; do not change.";

/// What a data directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the cluster; 1..=255 bytes without control characters, quotes and backslashes.
    pub cluster_name: String,
    /// The cluster.
    pub cluster: Uuid,
    /// Name of the broker; like `cluster_name`.
    pub broker_name: String,
    /// Number of the broker in its group; 0 is the first master.
    pub broker_id: u32,
    /// Random number of the broker group, 24 bits, not 0: upper part of each queue key it gives.
    pub broker_group: u32,
    /// This data directory: another one of the same broker has another.
    pub incarnation: Uuid,
    /// When it was made, ms UTC.
    pub created_ms: i64,
    /// Number of logs in it, for ever.
    pub logs: u16,
}

impl Identity {
    /// Checks what a new identity must be.
    ///
    /// # Errors
    /// Names the field that cannot be stored.
    pub fn check(&self) -> Result<(), FormatError> {
        let bad = |field, value: u64| Err(FormatError::Field { what: WHAT, field, value });
        if !is_name(&self.cluster_name) {
            return bad("cluster_name", self.cluster_name.len() as u64);
        }
        if !is_name(&self.broker_name) {
            return bad("broker_name", self.broker_name.len() as u64);
        }
        if self.broker_group == 0 || self.broker_group > BROKER_GROUP_MAX {
            return bad("broker_group", u64::from(self.broker_group));
        }
        if self.logs == 0 {
            return bad("logs", 0);
        }
        Ok(())
    }

    /// The file's content.
    ///
    /// # Errors
    /// See [`Identity::check`].
    pub fn encode(&self) -> Result<String, FormatError> {
        self.check()?;
        let mut text = format!(
            "{FIRST_LINE}\nformat_version = {FORMAT_VERSION}\ncluster_name = \"{}\"\ncluster = \"{}\"\n\
             broker_name = \"{}\"\nbroker_id = {}\nbroker_group = {}\nincarnation = \"{}\"\ncreated_ms = {}\nlogs = {}\n",
            self.cluster_name,
            self.cluster,
            self.broker_name,
            self.broker_id,
            self.broker_group,
            self.incarnation,
            self.created_ms,
            self.logs,
        );
        let crc = crc32c::crc32c(text.as_bytes());
        writeln!(text, "crc32c = \"{crc:08x}\"").expect("writing to a string does not fail");
        Ok(text)
    }

    /// Reads a file's content.
    ///
    /// # Errors
    /// Whatever is not exactly what [`Identity::encode`] writes.
    pub fn decode(content: &[u8]) -> Result<Self, FormatError> {
        if content.len() > IDENTITY_BYTES_MAX {
            return Err(FormatError::Field { what: WHAT, field: "length", value: content.len() as u64 });
        }
        let text = str::from_utf8(content).map_err(|_| FormatError::Text {
            what: WHAT,
            line: 1,
            reason: "not UTF-8",
        })?;
        check_crc(text)?;
        let mut lines = Lines { lines: text.lines(), line: 0 };
        lines.expect(FIRST_LINE)?;
        let version: u16 = lines.number("format_version = ")?;
        if version > FORMAT_VERSION {
            return Err(FormatError::NewerVersion { what: WHAT, found: version, known: FORMAT_VERSION });
        }
        let identity = Self {
            cluster_name: lines.quoted("cluster_name = ")?.to_owned(),
            cluster: lines.uuid("cluster = ")?,
            broker_name: lines.quoted("broker_name = ")?.to_owned(),
            broker_id: lines.number("broker_id = ")?,
            broker_group: lines.number("broker_group = ")?,
            incarnation: lines.uuid("incarnation = ")?,
            created_ms: lines.number("created_ms = ")?,
            logs: lines.number("logs = ")?,
        };
        if identity.encode()? == text { Ok(identity) } else { Err(lines.error("not as it was written")) }
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.chars().any(|char| char.is_control() || matches!(char, '"' | '\\'))
}

/// Compares the CRC in the last line with the lines before it.
fn check_crc(text: &str) -> Result<(), FormatError> {
    const LAST: &str = "crc32c = \"";
    let lines = text.lines().count();
    let cut =
        || FormatError::Text { what: WHAT, line: lines, reason: "the line with the checksum is missing" };
    let at = text.rfind(LAST).ok_or_else(cut)?;
    let (before, last) = text.split_at_checked(at).ok_or_else(cut)?;
    let digits = last.strip_prefix(LAST).and_then(|rest| rest.strip_suffix("\"\n")).ok_or_else(cut)?;
    let found = u32::from_str_radix(digits, 16).map_err(|_| cut())?;
    let computed = crc32c::crc32c(before.as_bytes());
    if found == computed { Ok(()) } else { Err(FormatError::Checksum { what: WHAT, found, computed }) }
}

/// Reads line after line.
struct Lines<'a> {
    lines: std::str::Lines<'a>,
    line: usize,
}

impl<'a> Lines<'a> {
    fn error(&self, reason: &'static str) -> FormatError {
        FormatError::Text { what: WHAT, line: self.line, reason }
    }

    fn value(&mut self, prefix: &str) -> Result<&'a str, FormatError> {
        self.line += 1;
        let value = self.lines.next().and_then(|line| line.strip_prefix(prefix));
        value.ok_or_else(|| self.error("another line is expected here"))
    }

    fn expect(&mut self, line: &str) -> Result<(), FormatError> {
        self.value(line).map(|_| ())
    }

    fn quoted(&mut self, prefix: &str) -> Result<&'a str, FormatError> {
        let value = self.value(prefix)?;
        let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        inner.ok_or_else(|| self.error("quotes are missing"))
    }

    fn number<T: std::str::FromStr>(&mut self, prefix: &str) -> Result<T, FormatError> {
        self.value(prefix)?.parse().map_err(|_| self.error("not a number in its range"))
    }

    fn uuid(&mut self, prefix: &str) -> Result<Uuid, FormatError> {
        self.quoted(prefix)?.parse().map_err(|_| self.error("not a UUID"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster_name: "default".into(),
            cluster: Uuid::from_u128(1),
            broker_name: "broker-ä".into(),
            broker_id: 0,
            broker_group: 0x00ab_cdef,
            incarnation: Uuid::from_u128(2),
            created_ms: 1_795_000_000_000,
            logs: 3,
        }
    }

    #[test]
    fn round_trip_and_every_change_noticed() {
        let text = identity().encode().unwrap();
        assert!(text.contains("\nbroker_group = 11259375\n"));
        let bytes = text.as_bytes();
        assert_eq!(Identity::decode(bytes), Ok(identity()));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&bad).is_err(), "flip of bit {bit} was not noticed");
        }
        for len in 0..bytes.len() {
            assert!(Identity::decode(&bytes[..len]).is_err());
        }
        assert!(Identity::decode(format!("{text}\n").as_bytes()).is_err());
    }

    #[test]
    fn what_cannot_be_stored_is_refused() {
        for bad in [
            Identity { broker_group: 0, ..identity() },
            Identity { broker_group: 1 << 24, ..identity() },
            Identity { logs: 0, ..identity() },
            Identity { cluster_name: String::new(), ..identity() },
            Identity { broker_name: "a\nlogs = 9".into(), ..identity() },
            Identity { broker_name: "a\"".into(), ..identity() },
            Identity { broker_name: "x".repeat(256), ..identity() },
        ] {
            assert!(matches!(bad.encode(), Err(FormatError::Field { .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_later_version_is_told_apart_from_damage() {
        let text = identity().encode().unwrap().replace("format_version = 1", "format_version = 2");
        assert!(matches!(Identity::decode(text.as_bytes()), Err(FormatError::Checksum { .. })));
        let body = text.split_inclusive('\n').filter(|line| !line.starts_with("crc")).collect::<String>();
        let text = format!("{body}crc32c = \"{:08x}\"\n", crc32c::crc32c(body.as_bytes()));
        assert!(matches!(Identity::decode(text.as_bytes()), Err(FormatError::NewerVersion { found: 2, .. })));
    }
}
