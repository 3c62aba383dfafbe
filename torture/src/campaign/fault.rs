//! One fault and the recovery from it.

use std::time::Duration;

use anyhow::Context as _;
use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::life::Life;
use super::{Campaign, Mode};
use crate::cli::{BrokerAtCut, CutArg, PowercutArgs};
use crate::disk::Cut;
use crate::oracle::violation::Class;

/// How long a running broker may live on a dead disk before its process is ended too, ms.
const AFTERLIFE_MS: std::ops::Range<u64> = 0..40;
/// How long a start may go on before it is ended: in the middle of recovery, or just after it, ms.
const RECOVERY_MS: std::ops::Range<u64> = 0..250;
/// Starts that are ended one after the other, at the most.
const INTERRUPTED_MAX: u32 = 3;

/// What is done to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Stop,
    /// The disk dies, and the process with it.
    PowerCut {
        /// Where.
        cut: Cut,
        /// What the process does meanwhile.
        process: AtCut,
    },
}

/// What a broker does while its power is cut. The two find different things: what is heard of a stopped one was all said
/// before the cut, so every word counts; a running one sees its disk fail and must not make things worse, but its words
/// from then on prove nothing (see [`Evidence::go_dark`]).
///
/// [`Evidence::go_dark`]: crate::oracle::Evidence::go_dark
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtCut {
    /// It was stopped before.
    Stopped,
    /// It lives on for so long.
    Running(Duration),
}

impl AtCut {
    fn draw(arguments: &PowercutArgs, random: &mut SmallRng) -> Self {
        let stopped = match arguments.broker {
            BrokerAtCut::Stopped => true,
            BrokerAtCut::Running => false,
            BrokerAtCut::Both => arguments.expect_loss || random.random_bool(0.5),
        };
        if stopped {
            return Self::Stopped;
        }
        Self::Running(Duration::from_millis(random.random_range(AFTERLIFE_MS)))
    }

    /// The same without a life after the cut.
    fn at_once(self) -> Self {
        if self == Self::Stopped { self } else { Self::Running(Duration::ZERO) }
    }
}

impl Fault {
    /// The next fault of a run.
    pub(super) fn draw(mode: &Mode, random: &mut SmallRng) -> Self {
        match mode {
            Mode::Kill | Mode::DiskFull(_) => Self::Kill,
            Mode::Stop => Self::Stop,
            Mode::PowerCut(arguments) => {
                let device = match arguments.cut {
                    CutArg::Fs => false,
                    CutArg::Device => true,
                    // Direct writes to blocks that were written before outlive a cut above the device, synced or not:
                    // that one alone may well find nothing.
                    CutArg::Both => arguments.expect_loss || random.random_bool(0.5),
                };
                Self::PowerCut {
                    cut: if device { Cut::Device } else { Cut::FileSystem },
                    process: AtCut::draw(arguments, random),
                }
            }
        }
    }
}

impl Campaign<'_> {
    /// Strikes, starts the broker again, and waits until sends and pulls work (C9).
    pub(super) async fn strike(&mut self, life: &mut Life, fault: Fault) -> anyhow::Result<()> {
        life.check_alive()?;
        self.report.usage = self.report.usage.max(life.usage());
        life.remark(&format!("{fault:?}"));
        match fault {
            Fault::Kill => {
                let alarms = life.servers.kill_broker()?;
                life.note_alarms(&alarms);
            }
            Fault::Stop => {
                if let Some(reason) = life.servers.stop_broker().await? {
                    life.shared.violation(Class::Crash, || reason);
                }
            }
            Fault::PowerCut { cut, process } => {
                match process {
                    AtCut::Stopped => self.report.cuts.stopped += 1,
                    AtCut::Running(_) => self.report.cuts.running += 1,
                }
                life.cut_power(cut, process).await?;
            }
        }
        if fault != Fault::Stop {
            self.interrupt_starts(life, fault).await?;
        }
        self.bring_back(life, fault == Fault::Stop).await
    }

    /// Every other time the same happens again while the broker recovers, up to three times in a row.
    async fn interrupt_starts(&mut self, life: &mut Life, fault: Fault) -> anyhow::Result<()> {
        for _ in 0..INTERRUPTED_MAX {
            if self.random.random_bool(0.5) {
                break;
            }
            let pause = Duration::from_millis(self.random.random_range(RECOVERY_MS));
            life.remark(&format!("{fault:?} {pause:?} after the start"));
            life.servers.begin_restart()?;
            tokio::time::sleep(pause).await;
            match fault {
                Fault::PowerCut { cut, process } => life.cut_power(cut, process.at_once()).await?,
                Fault::Kill | Fault::Stop => {
                    let alarms = life.servers.kill_broker()?;
                    life.note_alarms(&alarms);
                }
            }
            self.report.interrupted += 1;
        }
        Ok(())
    }

    async fn bring_back(&mut self, life: &mut Life, orderly: bool) -> anyhow::Result<()> {
        let took = match life.servers.restart().await {
            Ok(took) => took,
            Err(error) => {
                if self.report.expect_loss {
                    self.report.refusals += 1;
                } else {
                    life.shared.violation(Class::Stuck, || format!("{error:#}"));
                }
                return Err(error);
            }
        };
        self.report.restart.add(took);
        if orderly {
            let clean = life.servers.broker().and_then(|broker| broker.clean());
            if clean != Some(true) {
                life.shared.violation(Class::Crash, || match clean {
                    Some(_) => {
                        "after an orderly stop the broker found that it was not stopped in order".to_owned()
                    }
                    None => "the broker does not tell whether it was stopped in order".to_owned(),
                });
            }
        }
        let first_ack = life.works_again().await.context("after a restart")?;
        self.report.first_ack.add(first_ack);
        life.check_commits().await
    }
}
