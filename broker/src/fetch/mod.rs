//! Fetches: what is asked, gathering it from the queues of this shard, leaving out what a tag filter does not want.
//! Pure; what reads the log and what waits is elsewhere.

mod filter;
mod gather;

use std::ops::Range;
use std::sync::Arc;

use equeue_net::api::{FetchItem, FetchRef};
use equeue_record::{Offset, QueueKey};

pub use gather::{Access, Gather, Gathered, Lookup, SCAN_BYTES_MAX, Source, Step};

/// One queue of a fetch, with how far it has got.
#[derive(Clone, Debug)]
pub struct JobItem {
    /// Which queue.
    pub queue: QueueKey,
    /// Where to go on; moves past what the filter leaves out.
    pub offset: Offset,
    /// At most so many bytes of this queue.
    pub bytes_max: usize,
    /// The grant that it is read under; 0: none.
    pub grant_epoch: u32,
    /// Which of the job's tags it is filtered by.
    tags: Range<usize>,
    /// The filter has moved `offset` since the client was told.
    advanced: bool,
}

/// Who reads under grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The group that the grants belong to.
    pub group: Box<str>,
    /// The member.
    pub member: u128,
}

/// A fetch on its way.
#[derive(Clone, Debug)]
pub struct FetchJob {
    /// The client's number of it.
    pub fetch_id: u32,
    /// At most so many bytes in the answer.
    pub bytes_max: usize,
    /// When it is answered though nothing came, ms of the shard's clock.
    pub deadline_ms: u64,
    /// The queues, served in this order: the one who asks sees to it that none starves.
    pub items: Vec<JobItem>,
    /// Who reads; `None`: no item names a grant.
    pub reader: Option<Arc<Reader>>,
    /// Tags that items are filtered by.
    tags: Vec<u32>,
}

impl FetchJob {
    /// Takes a request off its frame. `None`: an item names tags that are not there.
    pub fn read(request: &FetchRef<'_>, member: u128, bytes_max: usize, deadline_ms: u64) -> Option<Self> {
        let mut items = Vec::with_capacity(request.items().len());
        let mut tags = Vec::new();
        for item in request.items() {
            let hashes = request.tags(&item);
            if hashes.len() != usize::from(item.tags_count) {
                return None;
            }
            let first = tags.len();
            tags.extend(hashes);
            items.push(JobItem::new(&item, first..tags.len()));
        }
        let bytes_max = usize::try_from(request.bytes_max()).unwrap_or(usize::MAX).min(bytes_max);
        let granted = items.iter().any(|item: &JobItem| item.grant_epoch != 0);
        let reader = granted.then(|| Arc::new(Reader { group: Box::from(request.group()), member }));
        Some(Self { fetch_id: request.fetch_id(), bytes_max, deadline_ms, items, reader, tags })
    }

    /// The part of it that concerns some of its items, for another shard.
    #[must_use]
    pub fn part(&self, items: Vec<JobItem>) -> Self {
        Self {
            fetch_id: self.fetch_id,
            bytes_max: self.bytes_max,
            deadline_ms: self.deadline_ms,
            items,
            reader: self.reader.clone(),
            tags: self.tags.clone(),
        }
    }

    /// The queues asked for.
    pub fn queues(&self) -> impl Iterator<Item = QueueKey> + '_ {
        self.items.iter().map(|item| item.queue)
    }
}

impl JobItem {
    fn new(item: &FetchItem, tags: Range<usize>) -> Self {
        let bytes_max = usize::try_from(item.bytes_max).unwrap_or(usize::MAX);
        let FetchItem { queue, offset, grant_epoch, .. } = *item;
        Self { queue, offset, bytes_max, grant_epoch, tags, advanced: false }
    }
}
