//! The options of `equeue bench`, as clap reads them. Names are a contract: scripts depend on them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};

use crate::workload::BODY_BYTES_MIN;

/// Measures a broker, or the commit log alone.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// What is measured.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What is measured.
#[derive(Subcommand, Clone, Debug)]
pub enum BenchCommand {
    /// Producers only: how fast messages are acknowledged
    Produce(LoadArgs),
    /// Fills a backlog, then drains it with consumers
    Consume(LoadArgs),
    /// Producers and consumers at once, until everything was received
    Both(LoadArgs),
    /// Open loop at a fixed rate: time to the acknowledgement and end to end
    Latency(LoadArgs),
    /// The commit log alone, without a network
    Storage(StorageArgs),
}

/// Options of every command that talks to a broker.
#[derive(Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct LoadArgs {
    /// Nameservers of the cluster to measure (host:port); without any, a standalone broker is started for the run
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub nameserver: Vec<String>,
    /// Topic; by default one of its own for each run
    #[arg(long)]
    pub topic: Option<String>,
    /// Queues of the topic, when it is created
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub queues: u32,
    /// Producers, each with a client (connections) of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub producers: u32,
    /// Consumers, all in one group
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub consumers: u32,
    /// Bytes of a message's body: one size, or a range LOW-HIGH
    #[arg(long, default_value = "1000", value_name = "BYTES|LOW-HIGH")]
    pub size: SizeRange,
    /// Ends after so many messages (consume: size of the backlog)
    #[arg(long, conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: Option<u64>,
    /// Ends after so many seconds [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub duration: Option<f64>,
    /// Seconds at the start that are not counted
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds_or_none)]
    pub warmup: f64,
    /// Open loop: messages per second of all producers together, whatever the broker does [latency: 10000]
    #[arg(long, value_name = "MESSAGES_PER_SECOND", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub rate: Option<u64>,
    /// Messages in flight per producer
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub window: u32,
    /// One message in flight per producer
    #[arg(long, conflicts_with = "window")]
    pub sync_send: bool,
    /// Largest batch that a producer builds, bytes [default: the client's]
    #[arg(long, value_name = "BYTES")]
    pub batch_max: Option<usize>,
    /// Microseconds that a batch waits for company
    #[arg(long, default_value_t = 0, value_name = "MICROSECONDS")]
    pub linger_us: u64,
    /// How messages are spread over the queues
    #[arg(long, value_enum, default_value_t = Spread::Client)]
    pub spread: Spread,
    /// Producers of a thread share one client (one set of connections); consumers as well
    #[arg(long)]
    pub share_client: bool,
    /// Threads of the generator; producers and consumers are spread over them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// CPUs of the generator [default with a broker of its own: the last ones, one per thread]
    #[arg(long, value_name = "CPUS")]
    pub pin: Option<CpuList>,
    /// consume: reads what the topic holds instead of filling it first
    #[arg(long, requires = "topic")]
    pub no_fill: bool,
    /// consume: a backlog larger than the broker's cache, so that it is read from disk
    #[arg(long)]
    pub cold: bool,
    /// Checks every body that is received: none lost, doubled, out of order, or changed
    #[arg(long)]
    pub verify: bool,
    /// The broker that is started without --nameserver
    #[command(flatten)]
    pub broker: OwnBrokerArgs,
    /// What becomes of the result
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The broker that a run starts for itself.
#[derive(Args, Clone, Debug, Default)]
pub struct OwnBrokerArgs {
    /// CPUs of the broker that is started for the run [default: all but the generator's]
    #[arg(long, value_name = "CPUS", conflicts_with = "nameserver")]
    pub broker_pin: Option<CpuList>,
    /// Folder (on a real disk) in which the run makes its temporary data directory
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// What becomes of the result.
#[derive(Args, Clone, Debug, Default)]
pub struct OutputArgs {
    /// Writes the result as one JSON object; `-` for standard output instead of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Demands on the result; the exit code is 1 unless all hold.
    #[arg(
        long,
        value_name = "EXPRESSION",
        help = "Exits with 1 unless this holds, such as 'p99<2000' or 'messages_per_second>=100000'; may be repeated"
    )]
    pub assert: Vec<crate::assertion::Assertion>,
}

/// Options of `bench storage`.
#[derive(Args, Clone, Debug)]
pub struct StorageArgs {
    /// Tasks that append, each with one batch in flight
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub tasks: u32,
    /// Queues that the tasks append to
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub queues: u32,
    /// Bytes of a message's body
    #[arg(long, default_value = "1000", value_name = "BYTES|LOW-HIGH")]
    pub size: SizeRange,
    /// Messages in each batch
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch_messages: u32,
    /// Ends after so many messages
    #[arg(long, conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: Option<u64>,
    /// Ends after so many seconds [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub duration: Option<f64>,
    /// Seconds at the start that are not counted
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds_or_none)]
    pub warmup: f64,
    /// Flushes in flight
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub depth: u8,
    /// Soft cap of a flush, bytes
    #[arg(long, value_name = "BYTES")]
    pub flush_max: Option<usize>,
    /// Reads everything back at the end and checks it
    #[arg(long)]
    pub verify: bool,
    /// CPU of the log's executor
    #[arg(long, value_name = "CPU")]
    pub pin: Option<CpuList>,
    /// Folder (on a real disk) in which the run makes its temporary data directory
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// What becomes of the result
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How messages are spread over the queues.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// The client decides: runs of messages to each queue in turn.
    Client,
    /// Each message goes to the next queue.
    Message,
    /// Producer p always sends to queue p modulo the number of queues.
    Producer,
}

impl Spread {
    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Message => "message",
            Self::Producer => "producer",
        }
    }
}

/// Sizes of bodies in bytes, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeRange {
    /// Smallest.
    pub low: usize,
    /// Largest.
    pub high: usize,
}

impl SizeRange {
    /// Largest body that a run sends: 1 MiB less room for what surrounds it.
    pub const HIGH_MAX: usize = (1 << 20) - 4096;

    /// Every body can carry what the verifier and the end-to-end clock need.
    #[must_use]
    pub const fn carries_stamp(self) -> bool {
        self.low >= BODY_BYTES_MIN
    }

    /// Mean size.
    #[must_use]
    pub const fn mean(self) -> usize {
        usize::midpoint(self.low, self.high)
    }
}

impl FromStr for SizeRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| {
            part.trim().parse::<usize>().map_err(|_| format!("`{part}` is not a number of bytes"))
        };
        let (low, high) = match text.split_once('-') {
            Some((low, high)) => (number(low)?, number(high)?),
            None => (number(text)?, number(text)?),
        };
        if low == 0 || low > high {
            return Err(format!("sizes go from at least 1 upwards, not {low}-{high}"));
        }
        if high > Self::HIGH_MAX {
            return Err(format!("the largest body of a run is {} bytes", Self::HIGH_MAX));
        }
        Ok(Self { low, high })
    }
}

impl fmt::Display for SizeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high { self.low.fmt(f) } else { write!(f, "{}-{}", self.low, self.high) }
    }
}

/// CPUs, written `0,2-3`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

impl CpuList {
    /// Largest CPU number that is understood.
    const CPU_MAX: usize = 1023;
}

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| match part.trim().parse::<usize>() {
            Ok(cpu) if cpu <= Self::CPU_MAX => Ok(cpu),
            _ => Err(format!("`{part}` is not a CPU number (0..={})", Self::CPU_MAX)),
        };
        let mut cpus = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last {
                        return Err(format!("`{part}` runs backwards"));
                    }
                    cpus.extend(first..=last);
                }
                None => cpus.push(number(part)?),
            }
        }
        cpus.sort_unstable();
        cpus.dedup();
        Ok(Self(cpus))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&parts.join(","))
    }
}

/// Longest run, a day.
const SECONDS_MAX: f64 = 86_400.0;

fn seconds(text: &str) -> Result<f64, String> {
    match seconds_or_none(text)? {
        seconds if seconds > 0.0 => Ok(seconds),
        _ => Err("must be more than 0".to_owned()),
    }
}

fn seconds_or_none(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=SECONDS_MAX).contains(&seconds) => Ok(seconds),
        _ => Err(format!("`{text}` is not a number of seconds (at most {SECONDS_MAX})")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(line: &str) -> Result<BenchCommand, clap::Error> {
        Command::try_parse_from(std::iter::once("bench").chain(line.split_whitespace()))
            .map(|command| command.bench.command)
    }

    #[test]
    fn every_option_of_the_contract_is_understood() {
        let line = "produce --nameserver 127.0.0.1:9493 --topic t --queues 8 --producers 4 --consumers 2 --size 100-2000 \
                    --duration 3 --warmup 0.5 --rate 1000 --window 50 --batch-max 65536 --linger-us 100 --pin 1 --verify \
                    --json out.json --assert p99<2000 --assert messages_per_second>=100000";
        let Ok(BenchCommand::Produce(args)) = parse(line) else { panic!("not understood") };
        assert_eq!(args.size, SizeRange { low: 100, high: 2000 });
        assert_eq!(args.pin, Some(CpuList(vec![1])));
        assert_eq!(args.output.assert.len(), 2);
        for command in ["consume", "both", "latency"] {
            assert!(parse(&format!("{command} --messages 10 --sync-send")).is_ok(), "{command}");
        }
        assert!(matches!(parse("storage --depth 1 --tasks 4"), Ok(BenchCommand::Storage(_))));
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "produce --messages 1 --duration 1",
            "produce --sync-send --window 2",
            "produce --nameserver a:1 --broker-pin 0",
            "consume --no-fill",
            "produce --assert p99",
            "produce --duration 0",
            "produce --rate 0",
            "storage --depth 3",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn sizes_and_cpus() {
        assert_eq!("7".parse(), Ok(SizeRange { low: 7, high: 7 }));
        for bad in ["0", "9-3", "x", "1-", "99999999"] {
            assert!(bad.parse::<SizeRange>().is_err(), "{bad}");
        }
        assert_eq!("3,0-1,1".parse(), Ok(CpuList(vec![0, 1, 3])));
        assert_eq!(CpuList(vec![0, 2]).to_string(), "0,2");
        for bad in ["", "a", "3-1", "5000"] {
            assert!(bad.parse::<CpuList>().is_err(), "{bad}");
        }
    }
}
