//! A disk that runs full under load and is given space again, a few times over.

use std::time::{Duration, Instant};

use super::Campaign;
use super::fault::Fault;
use super::life::Life;
use crate::oracle::violation::Class;

/// How long filling the disk may take.
const FILL_LIMIT: Duration = Duration::from_mins(2);
/// How long the broker may take to notice that there is space again.
const RECOVER_LIMIT: Duration = Duration::from_secs(20);
/// Refusals after which the disk counts as full.
const REFUSALS: u64 = 100;
/// How often a waiting caller looks.
const GLANCE: Duration = Duration::from_millis(20);
/// How often a disk runs full before it is given up: there are as many pieces of ballast.
pub(super) const FILLS: u64 = 4;

impl Campaign<'_> {
    /// One disk: full, space again, full again, as long as there is ballast to throw away.
    pub(super) async fn fill_and_free(&mut self, life: &mut Life) -> anyhow::Result<()> {
        for fill in 0..FILLS {
            if self.report.rounds == self.plan.run.rounds {
                break;
            }
            self.fill_once(life, fill).await?;
            if life.violations() > 0 && !self.plan.run.keep_going {
                break;
            }
        }
        Ok(())
    }

    /// One round: full (refused sends, consumers go on, new ones come), every other time a crash and a start on the full
    /// disk, then space again (sends work by themselves), then the oracle.
    async fn fill_once(&mut self, life: &mut Life, fill: u64) -> anyhow::Result<()> {
        let round = self.report.rounds + 1;
        life.enter_round(round);
        self.fill(life).await?;
        life.remark("full");
        // Nothing more is stored, so the ends stand still: consumers must come to them, and commit.
        life.catch_up().await?;
        life.check_commits().await?;
        life.join_and_commit(&format!("full-{round}")).await?;
        if round.is_multiple_of(2) {
            self.crash_while_full(life).await?;
            life.join_and_commit(&format!("crashed-{round}")).await?;
        }
        life.check_alive()?;
        self.report.usage = self.report.usage.max(life.usage());
        life.drop_ballast(fill)?;
        life.remark("freed");
        self.recovers(life).await?;
        life.verify(&mut self.report).await?;
        self.report.rounds += 1;
        self.tick(life);
        Ok(())
    }

    async fn fill(&mut self, life: &mut Life) -> anyhow::Result<()> {
        let (began, before) = (Instant::now(), life.shared.disk_full());
        while life.shared.disk_full() < before + REFUSALS {
            if began.elapsed() > FILL_LIMIT {
                life.shared.violation(Class::Stuck, || {
                    format!("no sends were refused with DISK_FULL within {FILL_LIMIT:?}")
                });
                anyhow::bail!("the disk does not run full");
            }
            life.check_alive()?;
            if life.violations() > 0 {
                anyhow::bail!("the broker did not survive a full disk");
            }
            tokio::time::sleep(GLANCE).await;
        }
        Ok(())
    }

    /// The broker must start on a full disk and serve what it has.
    async fn crash_while_full(&mut self, life: &mut Life) -> anyhow::Result<()> {
        life.remark(&format!("{:?} on the full disk", Fault::Kill));
        let alarms = life.servers.kill_broker()?;
        life.note_alarms(&alarms);
        match life.servers.restart().await {
            Ok(took) => self.report.restart.add(took),
            Err(error) => {
                life.shared.violation(Class::Stuck, || format!("on a full disk: {error:#}"));
                return Err(error);
            }
        }
        life.catch_up().await?;
        life.check_commits().await
    }

    async fn recovers(&mut self, life: &mut Life) -> anyhow::Result<()> {
        let (began, before) = (Instant::now(), life.shared.acknowledged());
        while life.shared.acknowledged() <= before {
            if began.elapsed() > RECOVER_LIMIT {
                life.shared.violation(Class::Stuck, || {
                    format!("with space again, nothing is acknowledged within {RECOVER_LIMIT:?}")
                });
                anyhow::bail!("the broker does not recover from a full disk");
            }
            tokio::time::sleep(GLANCE).await;
        }
        self.report.first_ack.add(began.elapsed());
        Ok(())
    }
}
