//! Doing what the rules tell: tracks, fetchers, releases, listeners.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use equeue_net::api::{ReleaseItem, Tries};
use tracing::{debug, info, warn};

use super::super::super::events::AssignmentEvent;
use super::super::super::fetcher::Fetcher;
use super::super::super::track::{Due, HandledBy, QueueId, Track};
use super::super::calls;
use super::super::ownership::{Act, Place};
use super::Keeper;

impl Keeper {
    pub(super) fn act(&mut self, acts: impl IntoIterator<Item = Act>) {
        let mut releases: BTreeMap<Place, Vec<(Arc<Track>, ReleaseItem)>> = BTreeMap::new();
        let mut acts: std::collections::VecDeque<Act> = acts.into_iter().collect();
        while let Some(act) = acts.pop_front() {
            let id = act.id().clone();
            let Some(track) = self.shared.track(&id) else { continue };
            let (topic, queue) = (Arc::clone(&id.0), id.1);
            match act {
                Act::Move(_, home) => {
                    debug!(%topic, queue, broker = %home.broker, shard = home.shard, "moved");
                    self.take_from_fetcher(&track);
                    track.set_home(home);
                    self.give_to_fetcher(&track);
                }
                Act::Drain(_) => {
                    self.take_from_fetcher(&track);
                    let drained = track.drain();
                    self.tell(&AssignmentEvent::Draining { topic, queue });
                    // Who leaves takes nothing back: what was pulled and not committed is for the next member.
                    let leaving = self.leaving.is_some() && self.shared.handled_by != HandledBy::Handlers;
                    if drained || leaving {
                        acts.extend(self.ownership.drained(&id));
                    }
                }
                Act::Cancel(_) => {
                    warn!(%topic, queue, after = ?self.shared.options.drain_max, "handlers are cancelled: the queue falls to another member");
                    track.cancel();
                    // Messages in the hands of the application cannot be taken back; unless they are to be committed by
                    // it, their fate is awaited.
                    if self.shared.handled_by == HandledBy::Commits {
                        acts.extend(self.ownership.drained(&id));
                    }
                }
                Act::Release(_) => {
                    info!(%topic, queue, handled = %track.handled(), "giving the queue back");
                    let home = track.home();
                    let commit = self.last_commit(&track);
                    let item = ReleaseItem {
                        queue: home.key,
                        grant_epoch: track.grant_epoch(),
                        commit: commit.map(|due| due.offset),
                        tries: commit.map_or_else(Tries::default, |due| due.tries),
                    };
                    self.remove(&id, &track);
                    releases
                        .entry((Arc::clone(&home.broker), home.shard))
                        .or_default()
                        .push((Arc::clone(&track), item));
                    self.tell(&AssignmentEvent::Released { topic, queue });
                }
                Act::Lose(_) | Act::Fence(_) => {
                    let counters = &self.shared.counters;
                    if matches!(act, Act::Fence(_)) {
                        counters.fenced.fetch_add(1, Ordering::Relaxed);
                        warn!(%topic, queue, after = ?self.shared.options.processing_max, "a handler does not end; its queue is given up, what it does will not count");
                    } else {
                        counters.lost_grants.fetch_add(1, Ordering::Relaxed);
                        warn!(%topic, queue, "the queue is not ours any more");
                    }
                    self.remove(&id, &track);
                    self.tell(&AssignmentEvent::Lost { topic, queue });
                }
                Act::Reset(_, offset, epoch) => {
                    info!(%topic, queue, %offset, epoch, "the offset was reset");
                    track.reset(offset, epoch);
                    self.tell(&AssignmentEvent::Reset { topic, queue, to: offset });
                }
            }
        }
        for (place, items) in releases {
            self.call(calls::release(Arc::clone(&self.shared), place, items));
        }
    }

    /// What is committed with the release. Where the application commits, only what it has.
    fn last_commit(&self, track: &Track) -> Option<Due> {
        match self.shared.handled_by {
            HandledBy::Commits => None,
            HandledBy::Calls | HandledBy::Handlers => track.to_commit(),
        }
    }

    fn remove(&mut self, id: &QueueId, track: &Arc<Track>) {
        self.take_from_fetcher(track);
        track.end();
        self.shared.owned().remove(id);
    }

    pub(super) fn give_to_fetcher(&mut self, track: &Arc<Track>) {
        let home = track.home();
        let fetcher = self.fetchers.entry((Arc::clone(&home.broker), home.shard)).or_insert_with(|| {
            let fetcher = Arc::new(Fetcher::new(Arc::clone(&home.broker), home.shard));
            self.fetching.spawn(Arc::clone(&fetcher).run(Arc::clone(&self.shared)));
            fetcher
        });
        track.set_fetcher(Some(fetcher.changed()));
        fetcher.change(|tracks| tracks.push(Arc::clone(track)));
    }

    fn take_from_fetcher(&self, track: &Arc<Track>) {
        let home = track.home();
        track.set_fetcher(None);
        if let Some(fetcher) = self.fetchers.get(&(Arc::clone(&home.broker), home.shard)) {
            fetcher.change(|tracks| tracks.retain(|other| !Arc::ptr_eq(other, track)));
        }
    }

    pub(super) fn tell(&self, event: &AssignmentEvent) {
        if let Some(listener) = &self.shared.options.on_assignment {
            listener.tell(event);
        }
    }
}

impl Act {
    const fn id(&self) -> &QueueId {
        match self {
            Self::Move(id, _)
            | Self::Drain(id)
            | Self::Cancel(id)
            | Self::Fence(id)
            | Self::Release(id)
            | Self::Lose(id)
            | Self::Reset(id, ..) => id,
        }
    }
}
