//! What groups have still to consume, for the log that asks before it deletes.

use std::rc::Rc;

use equeue_record::{Offset, QueueKey};
use equeue_storage::log::AppendError;
use equeue_storage::retention::{Leaving, RetentionAdvisor};
use futures::future::LocalBoxFuture;

use crate::delay;
use crate::group::Progress;
use crate::shard::state::Shard;
use crate::state_key;

/// Speaks for the groups of one log.
pub(crate) struct Advice {
    pub(crate) shard: Rc<Shard>,
    /// Place of the log on its shard.
    pub(crate) place: usize,
}

impl RetentionAdvisor for Advice {
    /// Groups count whether or not they have members. One that holds the queue but committed nothing has everything to
    /// consume; what cannot be read counts like that too.
    fn first_unconsumed(&self, queue: QueueKey) -> Option<Offset> {
        let host = self.shard.logs.get(self.place)?;
        let mut first: Option<Offset> = None;
        host.log.state_with_prefix(&state_key::group_offsets(queue), &mut |_, value| {
            let committed = Progress::decode(value).and_then(|progress| progress.committed);
            let committed = committed.unwrap_or_default();
            first = Some(first.map_or(committed, |least| least.min(committed)));
        });
        first
    }

    fn carry_forward<'a>(&'a self, leaving: &'a [Leaving]) -> LocalBoxFuture<'a, Result<(), AppendError>> {
        Box::pin(async move {
            match self.shard.logs.get(self.place) {
                Some(host) => delay::carry_forward(&self.shard, host, leaving).await,
                None => Ok(()),
            }
        })
    }
}
