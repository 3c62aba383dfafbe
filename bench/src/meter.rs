//! The broker as the generator sees it from outside: its CPU time, and whether it lives.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use equeue_client::Admin;

use crate::own_broker::OwnBroker;

/// What tells the broker's CPU time.
#[derive(Debug)]
pub(crate) enum BrokerMeter {
    /// A process of this machine, started for the run.
    Own(Box<Mutex<OwnBroker>>),
    /// The brokers of a cluster: they tell it themselves.
    Cluster {
        /// Asks them.
        admin: Admin,
        /// Their names.
        brokers: Vec<Arc<str>>,
    },
}

impl BrokerMeter {
    /// The brokers that the cluster has now.
    pub(crate) async fn of_cluster(admin: Admin) -> Result<Self> {
        let entries = admin.cluster().await.context("asking the nameserver for the brokers")?;
        let brokers = entries.into_iter().map(|entry| Arc::from(entry.name)).collect();
        Ok(Self::Cluster { admin, brokers })
    }

    /// CPU time of all broker processes so far, ns; `None` when one does not tell.
    pub(crate) async fn cpu_ns(&self) -> Option<u64> {
        match self {
            Self::Own(_) => self.cpu_ns_here(),
            Self::Cluster { admin, brokers } => {
                let mut sum_us = 0;
                for broker in brokers {
                    sum_us += admin.describe_broker(broker).await.ok()?.cpu_us;
                }
                Some(sum_us * 1000)
            }
        }
    }

    /// CPU time of a broker of this run's own so far, ns: asking costs nothing.
    pub(crate) fn cpu_ns_here(&self) -> Option<u64> {
        Some(self.own()?.cpu_ns())
    }

    /// Bytes that a broker of this run's own read from and wrote to disk so far.
    pub(crate) fn disk_bytes(&self) -> Option<(u64, u64)> {
        Some(self.own()?.disk_bytes())
    }

    /// The broker of this run's own.
    pub(crate) fn own(&self) -> Option<MutexGuard<'_, OwnBroker>> {
        match self {
            Self::Own(broker) => Some(broker.lock().unwrap_or_else(PoisonError::into_inner)),
            Self::Cluster { .. } => None,
        }
    }

    /// The broker is known to run on this machine.
    pub(crate) const fn is_here(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// Says why, when a broker of the run's own has ended.
    pub(crate) fn check_alive(&self) -> Result<()> {
        self.own().map_or(Ok(()), |mut broker| broker.check_alive())
    }
}
