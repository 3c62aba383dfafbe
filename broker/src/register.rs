//! Tells every nameserver what this broker is and has: every few seconds, at once on a change, and when it stops.
//!
//! **Invariant**: a nameserver that cannot be reached stops nothing and is warned of once, not with every attempt.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use equeue_net::Code;
use equeue_net::api::{RegisterBroker, UnregisterBroker};
use equeue_net::transport::dialer::{DialError, Dialer, DialerConfig};
use equeue_storage::io::Io as _;
use futures::future::{join_all, select};

use crate::shard::signal::Signal;
use crate::shard::state::Shard;

/// Time that an orderly stop gives the nameservers to listen.
const UNREGISTER_TIME_MAX: Duration = Duration::from_millis(500);

/// The registrations of a broker; on shard 0.
pub(crate) struct Registrar {
    shard: Rc<Shard>,
    /// One per nameserver: wakes its task.
    targets: Vec<Rc<Target>>,
}

#[derive(Debug, Default)]
struct Target {
    address: String,
    due: Signal,
    ended: Signal,
    stopping: Cell<bool>,
}

impl Registrar {
    /// Begins to register.
    pub(crate) fn start(shard: &Rc<Shard>) -> Self {
        let mut targets = Vec::new();
        for address in &shard.broker.config.nameservers {
            let target = Rc::new(Target { address: address.clone(), ..Target::default() });
            targets.push(Rc::clone(&target));
            shard.spawn(run(Rc::clone(shard), target));
        }
        let registrar = Self { shard: Rc::clone(shard), targets };
        registrar.spawn_changes();
        registrar
    }

    /// Passes changes on to every nameserver's task.
    fn spawn_changes(&self) {
        let (shard, targets) = (Rc::clone(&self.shard), self.targets.clone());
        self.shard.spawn(async move {
            loop {
                shard.changed.wait().await;
                for target in &targets {
                    target.due.set();
                }
            }
        });
    }

    /// Takes the broker off every nameserver that can be reached soon.
    pub(crate) async fn stop(&self) {
        for target in &self.targets {
            target.stopping.set(true);
            target.due.set();
        }
        let ended = join_all(self.targets.iter().map(|target| target.ended.wait()));
        let late = self.shard.io.sleep(UNREGISTER_TIME_MAX);
        select(std::pin::pin!(ended), std::pin::pin!(late)).await;
    }
}

/// One nameserver, for the life of the broker.
async fn run(shard: Rc<Shard>, target: Rc<Target>) {
    let config = DialerConfig::new(shard.broker.config.name.clone(), shard.broker.incarnation);
    let mut dialer = Dialer::new(target.address.clone(), config);
    let mut reached = None;
    while !target.stopping.get() {
        let outcome = register(&shard, &mut dialer).await;
        let pause = match &outcome {
            Err(DialError::BackingOff { wait, .. }) => (*wait).min(shard.broker.register_every()),
            _ => shard.broker.register_every(),
        };
        tell(&target.address, &mut reached, outcome);
        let sleep = std::pin::pin!(shard.io.sleep(pause));
        select(sleep, std::pin::pin!(target.due.wait())).await;
    }
    if reached == Some(true) {
        let broker = &shard.broker;
        let request = UnregisterBroker {
            cluster: broker.config.cluster.clone(),
            name: broker.config.name.clone(),
            incarnation: broker.incarnation,
        };
        if let Err(error) = dialer.request(&request).await {
            tracing::info!(nameserver = target.address, %error, "could not unregister; it will notice the silence");
        }
    }
    target.ended.set();
}

/// What a registration came to: accepted, or refused with a text.
async fn register(shard: &Shard, dialer: &mut Dialer) -> Result<Option<String>, DialError> {
    let catalog = shard.catalog();
    let topics = catalog.topics().map(|topic| topic.snapshot(shard.shards())).collect();
    let request = RegisterBroker { broker: shard.broker.entry(), topics };
    let answer = dialer.request(&request).await?;
    let refused = answer.status.code != Code::Ok;
    Ok(refused.then(|| format!("{}: {}", answer.status.code, answer.status.detail)))
}

/// One line when a nameserver is lost and one when it is found again.
fn tell(address: &str, reached: &mut Option<bool>, outcome: Result<Option<String>, DialError>) {
    let now = matches!(outcome, Ok(None));
    let before = reached.replace(now);
    match outcome {
        Err(DialError::BackingOff { .. }) => *reached = before,
        _ if before == Some(now) => {}
        Ok(None) => tracing::info!(nameserver = address, "registered"),
        Ok(Some(refusal)) => {
            tracing::warn!(nameserver = address, refusal, "the nameserver refuses this broker");
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(nameserver = address, %error, cause, "registration failed; trying again until it succeeds");
        }
    }
}
