//! The options of `equeue bench`, as clap reads them. Names are a contract: scripts depend on them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};

use crate::keys::Keys;
use crate::sizes::Sizes;

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
    /// Compares two results that were written with --json: ratios, noise, verdict
    Compare(CompareArgs),
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
    /// Topics that the messages are spread over: NAME-0, NAME-1... when there are several
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub topics: u32,
    /// Queues of each topic, when it is created
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub queues: u32,
    /// Producers, each with a client (connections) of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub producers: u32,
    /// Consumers, all in one group
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub consumers: u32,
    /// Bytes of a message's body.
    #[arg(
        long,
        default_value = "1000",
        value_name = "SIZES",
        help = "Bytes of a message's body: one size, LOW-HIGH, lognormal:MEDIAN:SIGMA[:MAX], or file:PATH (lines of BYTES COUNT)"
    )]
    pub size: Sizes,
    /// Keys of the messages: none, uniform:N, zipf:N or zipf:N:EXPONENT
    #[arg(long, default_value = "none", value_name = "KEYS")]
    pub keys: Keys,
    /// Ends after so many messages (consume: size of the backlog)
    #[arg(long, conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: Option<u64>,
    /// Ends after so many seconds [default: 10; each run of a --sweep or --find-max: 5]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub duration: Option<f64>,
    /// Seconds at the start that are not counted
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds_or_none)]
    pub warmup: f64,
    /// Open loop: messages per second of all producers together, whatever the broker does [latency: 10000]
    #[arg(long, value_name = "MESSAGES_PER_SECOND", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub rate: Option<u64>,
    /// latency: one run at each of these rates (messages per second, ascending)
    #[arg(long, value_name = "RATES", value_delimiter = ',', conflicts_with_all = ["rate", "messages"],
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub sweep: Vec<u64>,
    /// latency: searches the highest rate at which p99 stays under --p99-max and nothing piles up; begins at --rate
    #[arg(long, conflicts_with_all = ["sweep", "messages"])]
    pub find_max: bool,
    /// Bound of p99 for --find-max and --sweep, microseconds [default of --find-max: 10000]
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub p99_max: Option<u32>,
    /// both, latency: consumers begin so many seconds after producers, and catch up while these go on
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub backlog: Option<f64>,
    /// Ends the broker that was started for the run while the load is on, and starts it again on its data
    #[arg(long, value_enum, value_name = "HOW", conflicts_with = "nameserver")]
    pub outage: Option<HowEnded>,
    /// When, in seconds of the measured time [default: 2]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "outage")]
    pub outage_at: Option<f64>,
    /// both, latency: messages are to be delivered so many milliseconds later; end to end counts from then
    #[arg(long, default_value_t = 0, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(..=3_600_000))]
    pub delay_ms: u64,
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
    /// Histograms of each second.
    #[arg(
        long,
        value_name = "FILE",
        help = "Writes the histograms of each second in HdrHistogram's log format"
    )]
    pub hlog: Option<PathBuf>,
    /// What becomes of the result
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `bench compare`.
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// The result to compare with
    pub before: PathBuf,
    /// The result that is judged
    pub after: PathBuf,
    /// Differences up to this are never more than noise, percent
    #[arg(long, default_value_t = 3.0, value_name = "PERCENT", value_parser = percent)]
    pub tolerance: f64,
    /// Exits with 1 when a figure is worse by more than noise
    #[arg(long)]
    pub fail_if_worse: bool,
    /// Writes the comparison as one JSON object; `-` for standard output instead of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
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
    /// Writes a report with charts as one HTML page that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
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
    #[arg(long, default_value = "1000", value_name = "SIZES")]
    pub size: Sizes,
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
    /// Keeps the log at so many bytes, as retention does: its segments are used again, and each byte is written once
    #[arg(long, value_name = "BYTES", conflicts_with = "verify")]
    pub log_max: Option<u64>,
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

/// How a broker is ended.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum HowEnded {
    /// SIGKILL: what was not synced is lost.
    Kill,
    /// SIGTERM: in order.
    Stop,
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

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err(format!("`{text}` is not a percentage")),
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
        assert_eq!(args.size, Sizes::range(100, 2000).expect("a range"));
        assert_eq!(args.pin, Some(CpuList(vec![1])));
        assert_eq!(args.output.assert.len(), 2);
        for command in ["consume", "both", "latency"] {
            assert!(parse(&format!("{command} --messages 10 --sync-send")).is_ok(), "{command}");
        }
        let line = "latency --sweep 1000,2000 --p99-max 2000 --topics 3 --keys zipf:1000 --size lognormal:1000:1 \
                    --hlog a.hlog --html a.html --outage kill --outage-at 1 --backlog 2 --delay-ms 100";
        let Ok(BenchCommand::Latency(args)) = parse(line) else { panic!("not understood") };
        assert_eq!((args.sweep.as_slice(), args.keys), (&[1000, 2000][..], Keys::Zipf(1000, 1.0)));
        assert!(parse("latency --find-max --rate 5000").is_ok());
        assert!(matches!(parse("storage --depth 1 --tasks 4"), Ok(BenchCommand::Storage(_))));
        assert!(matches!(parse("compare a.json b.json --fail-if-worse"), Ok(BenchCommand::Compare(_))));
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
            "latency --sweep 1,2 --rate 1",
            "latency --sweep 1,2 --find-max",
            "latency --find-max --messages 5",
            "produce --outage kill --nameserver a:1",
            "produce --outage-at 3",
            "produce --size lognormal:5",
            "produce --keys many",
            "compare a.json",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn cpus() {
        assert_eq!("3,0-1,1".parse(), Ok(CpuList(vec![0, 1, 3])));
        assert_eq!(CpuList(vec![0, 2]).to_string(), "0,2");
        for bad in ["", "a", "3-1", "5000"] {
            assert!(bad.parse::<CpuList>().is_err(), "{bad}");
        }
    }
}
