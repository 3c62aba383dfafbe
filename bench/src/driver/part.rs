//! What one thread of the generator has to do, and what it counts in.

use std::sync::{Arc, Mutex};

use super::Load;
use super::consuming::ConsumeTally;
use super::ledger::Ledger;
use super::moments::Moments;

/// A thread's share of a run.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Its number.
    pub index: u32,
    /// Its producers, by their number in the run.
    pub producers: Vec<u32>,
    /// Its consumers, by their number in the run.
    pub consumers: Vec<u32>,
    /// Its CPUs; empty: any.
    pub cpus: Vec<usize>,
    /// What its producers count in.
    pub ledger: Arc<Mutex<Ledger>>,
    /// What its consumers count in.
    pub tally: Arc<Mutex<ConsumeTally>>,
    /// When the run ends.
    pub moments: Arc<Moments>,
}

impl Part {
    /// The share of this thread: producers, consumers and CPUs are dealt out in turn.
    pub(super) fn of(load: &Load, index: u32, moments: &Arc<Moments>) -> Self {
        let mine =
            |count: u32| (0..count).filter(|number| number % load.threads == index).collect::<Vec<u32>>();
        let producers = mine(load.producers);
        let cpu = load.cpus.get(index as usize % load.cpus.len().max(1));
        let ledger = Ledger::new(producers.len(), load.window, load.rate.is_some());
        Self {
            index,
            consumers: mine(load.consumers),
            cpus: cpu.map(|cpu| vec![*cpu]).unwrap_or_default(),
            ledger: Arc::new(Mutex::new(ledger)),
            tally: Arc::new(Mutex::new(ConsumeTally::new())),
            producers,
            moments: Arc::clone(moments),
        }
    }
}
