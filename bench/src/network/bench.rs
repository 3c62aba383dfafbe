//! One broker set up for one or several runs.

use anyhow::{Context as _, Result};
use equeue_client::Client;

use super::{Kind, drain, figures, setup, target};
use crate::cli::LoadArgs;
use crate::driver::{self, Load, Stand};
use crate::environment::{Environment, Mount};
use crate::hlog::Hlog;
use crate::machine;
use crate::meter::BrokerMeter;
use crate::placement::{Placement, place};
use crate::progress::Progress;
use crate::report::Report;
use crate::stop::StopRequest;
use crate::verify::{Expect, Verifier};

/// A cluster that is there, and everything that is needed to put loads on it.
pub(super) struct Bench<'a> {
    pub(super) kind: Kind,
    pub(super) args: &'a LoadArgs,
    pub(super) stand: Stand,
    pub(super) nameservers: Vec<String>,
    placement: Placement,
    environment: Environment,
    client: Client,
    warnings: Vec<String>,
}

impl<'a> Bench<'a> {
    /// Starts a broker unless there is one, and connects.
    pub(super) async fn set_up(kind: Kind, args: &'a LoadArgs, stop: StopRequest) -> Result<Self> {
        let mut environment = Environment::here();
        let placement = place(args, &machine::allowed_cpus()?)?;
        let mut warnings = placement.warnings.clone();
        let (meter, nameservers) = target::find(kind, args, &placement, &mut warnings)?;
        if !placement.generator.is_empty() {
            machine::bind_to(&placement.generator)?;
        }
        let client = driver::connect(&nameservers, "bench-admin").await?;
        let meter = match meter {
            Some(own) => own,
            None => BrokerMeter::of_cluster(client.admin()).await?,
        };
        if let Some(broker) = meter.own() {
            environment.data = Mount::of(broker.data());
            environment.broker_settings = broker.settings();
        }
        let hlog = args.hlog.as_deref().map(Hlog::create).transpose()?;
        let stand = Stand::new(meter, Progress::new(kind.name(), kind == Kind::Latency), stop, hlog);
        for warning in &warnings {
            eprintln!("WARNING: {warning}");
        }
        Ok(Self { kind, args, stand, nameservers, placement, environment, client, warnings })
    }

    /// One run, at this rate or as fast as it goes, on topics of its own unless one was named.
    pub(super) async fn run(&self, rate: Option<u64>) -> Result<Report> {
        let run = rand::random();
        let (topics, queues, existed) = self.topics(run).await?;
        let mut load = setup::load(self.kind, self.args, &self.placement, run, (topics, queues), rate);
        load.nameservers.clone_from(&self.nameservers);
        if existed && load.own_only {
            load.start = setup::shortly_before_now();
        }
        let config = setup::config(self.args, &load, &self.placement, existed);
        let outcome = match self.kind {
            Kind::Consume => drain::fill_and_drain(self, load).await,
            Kind::Produce if self.args.verify => drain::produce_and_verify(self, load).await,
            Kind::Produce | Kind::Both | Kind::Latency => self.drive_once(load).await,
        };
        self.stand.progress.finish();
        let mut report = figures::report(self.kind, self.args, config, outcome?, self.warnings.clone());
        report.environment = self.environment.clone();
        report.broker_memory_peak_bytes =
            self.stand.meter.own().and_then(|broker| broker.memory_peak_bytes());
        Ok(report)
    }

    async fn drive_once(&self, load: Load) -> Result<driver::Outcome> {
        let expect = Expect::Run { run: load.run, producers: load.producers };
        let verifier = (self.args.verify && load.consumers > 0).then(|| Verifier::new(expect));
        driver::drive(load, verifier, &self.stand).await
    }

    /// Names of the topics, how many queues each has at the most, and whether all were there before.
    async fn topics(&self, run: u32) -> Result<(Vec<String>, u32, bool)> {
        let name = self.args.topic.clone().unwrap_or_else(|| format!("bench-{run:08x}"));
        let names: Vec<String> = match self.args.topics {
            1 => vec![name],
            topics => (0..topics).map(|index| format!("{name}-{index}")).collect(),
        };
        let admin = self.client.admin();
        let (mut queues, mut existed) = (0, true);
        for name in &names {
            let (found, was_there) = target::ensure_topic(&admin, name, self.args.queues, &self.stand.meter)
                .await
                .with_context(|| format!("preparing topic {name}"))?;
            queues = queues.max(found);
            existed &= was_there;
        }
        Ok((names, queues, existed))
    }

    /// Closes the connections; a broker of the run's own ends when this is dropped.
    pub(super) async fn take_down(self) {
        self.client.close().await;
    }
}
