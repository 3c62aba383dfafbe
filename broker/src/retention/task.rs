//! The task that carries out the retention of one log.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use equeue_storage::io::Io as _;
use futures::future::{Either, select};

use super::advice::Advice;
use super::log_policy;
use super::trim::{Looked, trim_topics};
use crate::broker::Phase;
use crate::catalog::Topic;
use crate::config::StorageMode;
use crate::shard::state::Shard;

/// Longest time between two looks at whether the broker stops.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Time between two looks at a log in memory.
const CHECK_MS_IN_MEMORY: u64 = 20;

/// Lets go what the settings let go, again and again, until the broker stops.
pub(crate) async fn run(shard: Rc<Shard>, place: usize) {
    let advice = Advice { shard: Rc::clone(&shard), place };
    let config = &shard.broker.config;
    // Memory fills in a moment.
    let in_memory = config.storage.mode == StorageMode::Memory;
    let check_ms = if in_memory { CHECK_MS_IN_MEMORY } else { config.retention.check_ms };
    let (every, mut looked) = (Duration::from_millis(check_ms), Looked::default());
    let (mut last, mut begun) = (shard.io.uptime(), 0);
    let Some(host) = shard.logs.get(place) else { return };
    loop {
        let pause = pin!(shard.io.sleep(PAUSE_MAX.min(every)));
        let rolled = pin!(host.log.rolled(begun));
        let has_rolled = match select(pause, rolled).await {
            Either::Left(_) => false,
            Either::Right((segments, _)) => {
                begun = segments;
                true
            }
        };
        if shard.broker.phase() == Phase::Stopping {
            return;
        }
        let is_time = shard.io.uptime().saturating_sub(last) >= every;
        if shard.broker.phase() != Phase::Ready || !(is_time || has_rolled) {
            continue;
        }
        if is_time {
            last = shard.io.uptime();
            trim_topics(&shard, place, &advice, &mut looked).await;
        }
        pass(&shard, place, &advice).await;
        // Segments that the pass itself filled, with what it carried forward, are no reason for another.
        begun = host.log.stats().segments;
    }
}

async fn pass(shard: &Shard, place: usize, advice: &Advice) {
    let Some(host) = shard.logs.get(place) else { return };
    let catalog = shard.catalog();
    let here = |topic: &&Arc<Topic>| topic.queues.iter().any(|home| home.log == host.id);
    let ages = catalog.topics().filter(here).map(|topic| catalog.settings(&topic.name).retention);
    let policy = log_policy(&shard.broker.config, shard.broker.logs, ages);
    match host.log.retain(&policy, advice).await {
        Ok(done) if done.segments > 0 => {
            tracing::info!(log = %host.id, segments = done.segments, bytes = done.bytes, "old segments are gone");
        }
        Ok(_) => {}
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(log = %host.id, %error, cause = error.source().map(tracing::field::display),
                "retention stopped early; it is tried again");
        }
    }
}
