//! The handler form: every message goes to a handler, at most so many at a time; the lowest offset not yet handled is
//! what the periodic commit makes durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::Consumer;
use super::track::Track;
use crate::{ClientError, HandlerError, Received};

/// Pause before a message is given to its handler again.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How long handlers may go on after the stop; then they are cancelled, and what they had is handled again later.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// How long one wait for a message may be.
const PULL_PATIENCE: Duration = Duration::from_hours(1);

impl Consumer {
    /// Hands every message to `handler` until `stop` resolves; then waits for the handlers at work, commits and closes.
    ///
    /// At most [`crate::ConsumerOptions::parallel`] handlers are at work at a time; with one, messages of a queue are
    /// handled in their order. A message whose handler asks for it is tried again every second and holds its place
    /// meanwhile. Every message is handled at least once.
    ///
    /// # Errors
    /// When the last commit fails. Trouble while running is logged and overcome.
    pub async fn run<F>(mut self, handler: F, stop: impl Future<Output = ()>) -> Result<(), ClientError>
    where
        F: AsyncFn(Received) -> Result<(), HandlerError>,
    {
        let parallel = self.shared.options.parallel.max(1);
        let stopping = AtomicBool::new(false);
        let mut at_work = FuturesUnordered::new();
        let mut stop = std::pin::pin!(stop);
        self.by_handler = true;
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(()) = at_work.next() => {}
                next = self.next_message(PULL_PATIENCE), if at_work.len() < parallel => match next {
                    Ok(Some((track, message))) => {
                        track.with_progress(|progress| progress.begin(message.offset));
                        at_work.push(handle(&handler, track, message, &stopping));
                    }
                    Ok(None) => {}
                    Err(error) => warn!(%error, "trouble with receiving"),
                },
            }
        }
        stopping.store(true, Ordering::Relaxed);
        let drained = timeout(DRAIN_MAX, async { while at_work.next().await.is_some() {} }).await;
        if drained.is_err() {
            warn!(
                handlers = at_work.len(),
                "handlers did not end in time; their messages are handled again later"
            );
        }
        drop(at_work);
        self.close().await
    }
}

/// Handles one message, if need be again and again.
async fn handle<F>(handler: &F, track: Arc<Track>, message: Received, stopping: &AtomicBool)
where
    F: AsyncFn(Received) -> Result<(), HandlerError>,
{
    let offset = message.offset;
    loop {
        match handler(message.clone()).await {
            Ok(()) => break,
            Err(error @ HandlerError::Skip(_)) => {
                warn!(topic = %track.topic.name, queue = track.ordinal, %offset, %error, "not handled");
                break;
            }
            Err(error @ HandlerError::Retry(_)) => {
                warn!(topic = %track.topic.name, queue = track.ordinal, %offset, %error, "not handled");
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
                sleep(RETRY_EVERY).await;
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    }
    track.with_progress(|progress| progress.done(offset));
}
