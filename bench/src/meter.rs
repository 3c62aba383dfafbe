//! The broker as the generator sees it from outside: its CPU time, and whether it lives.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use equeue_client::Admin;

use crate::machine::process_cpu_ns_of;
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
            Self::Own(broker) => {
                process_cpu_ns_of(broker.lock().unwrap_or_else(PoisonError::into_inner).pid())
            }
            Self::Cluster { admin, brokers } => {
                let mut sum_us = 0;
                for broker in brokers {
                    sum_us += admin.describe_broker(broker).await.ok()?.cpu_us;
                }
                Some(sum_us * 1000)
            }
        }
    }

    /// The broker is known to run on this machine.
    pub(crate) const fn is_here(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// Says why, when a broker of the run's own has ended.
    pub(crate) fn check_alive(&self) -> Result<()> {
        match self {
            Self::Own(broker) => broker.lock().unwrap_or_else(PoisonError::into_inner).check_alive(),
            Self::Cluster { .. } => Ok(()),
        }
    }
}
