//! What shards ask of one another.

use std::sync::Arc;

use bytes::Bytes;
use equeue_net::Code;
use equeue_net::api::{
    AckLevel, CancelDelayed, CancelDelayedAnswer, ClientEntry, CommitItem, CommitOutcome, CreateTopic,
    CreateTopicAnswer, DeleteTopic, DeleteTopicAnswer, FetchOutcome, GrantOutcome, GroupHeartbeat,
    GroupHeartbeatAnswer, HandBackItem, HandBackOutcome, ListOffsetsOutcome, LogState, OffsetAt,
    ProduceOutcome, ReleaseItem, RemoveQueues, RemoveQueuesAnswer, ResetOutcome, SetQueueAccess,
    SetQueueAccessAnswer, SetTopic, SetTopicAnswer, Status,
};
use equeue_net::transport::listener::Accepted;
use equeue_record::{Offset, QueueKey};
use equeue_storage::log::QueueBounds;

use super::mesh;
use crate::catalog::Catalog;
use crate::fetch::FetchJob;
use crate::group::{Beat, GroupTopics, Link, Member};
use crate::handler::grants::{Kept, Wish};
use crate::handler::group_admin::GroupHere;

/// A request of one shard to another.
#[derive(Debug)]
pub(crate) enum Call {
    /// Append batches.
    Produce {
        /// What is asked for.
        level: AckLevel,
        /// The batches, by queue.
        batches: Vec<(QueueKey, Bytes)>,
    },
    /// Read, waiting up to the job's deadline.
    Fetch {
        /// Names the fetch for [`Call::CancelFetch`].
        token: u32,
        /// How long it may wait, ms (clocks of shards differ).
        wait_ms: u64,
        /// What is wanted.
        job: FetchJob,
    },
    /// Answer that fetch now.
    CancelFetch {
        /// Its name.
        token: u32,
    },
    /// Store offsets of a group.
    Commit {
        /// The group.
        group: Arc<str>,
        /// Who commits.
        member: u128,
        /// Its queues.
        items: Vec<CommitItem>,
    },
    /// Extend leases.
    Beat { group: Arc<str>, member: u128, generation: u64, held: Vec<Kept> },
    /// Grant what is free.
    Grant { wish: Wish, queues: Vec<QueueKey> },
    /// End grants.
    Release { group: Arc<str>, member: u128, items: Vec<ReleaseItem> },
    /// End everything that a member has here: grants, and its membership.
    Leave { group: Arc<str>, member: Member },
    /// A member of a group of this shard says that it is there.
    GroupBeat { member: Member, link: Link, beat: GroupHeartbeat },
    /// A connection of a member is closed.
    GroupClosed { group: Arc<str>, member: Member, link: u64 },
    /// Only of shard 0: the stored generation; 0: none.
    Generation { group: Arc<str> },
    /// Only of shard 0: a durable generation above this one and all before.
    RaiseGeneration { group: Arc<str>, above: u64 },
    /// Groups with somebody on the asking shard, from now on.
    GroupsAttended { groups: Arc<GroupTopics> },
    /// What is known of all groups, or of one.
    Groups { only: Option<Arc<str>> },
    /// Forget a group that has nobody here.
    DropGroup { group: Arc<str> },
    /// Set offsets.
    Reset { group: Arc<str>, dry_run: bool, items: Vec<(QueueKey, Offset)> },
    /// Who is connected.
    Clients,
    /// Which of these queues hold messages that a group has not consumed.
    Undrained { queues: Vec<QueueKey> },
    /// Only of shard 0.
    SetQueueAccess(SetQueueAccess),
    /// Only of shard 0.
    RemoveQueues(RemoveQueues),
    /// Offsets of a group.
    FetchOffsets {
        /// The group.
        group: Arc<str>,
        /// The queues.
        queues: Vec<QueueKey>,
    },
    /// Offsets of queues.
    ListOffsets {
        /// What of which.
        items: Vec<(QueueKey, OffsetAt)>,
    },
    /// Bounds of queues.
    Bounds {
        /// The queues.
        queues: Vec<QueueKey>,
    },
    /// Make copies of messages that a group could not handle.
    HandBack {
        /// The group.
        group: Arc<str>,
        /// Who hands back.
        member: u128,
        /// A message handed back so often is dead.
        attempts_max: u32,
        /// The messages.
        items: Vec<HandBackItem>,
    },
    /// Only of shard 0: make a hidden topic.
    MakeHidden {
        /// Its name.
        topic: String,
    },
    /// Take back a delayed message.
    CancelDelayed(CancelDelayed),
    /// State of the shard's logs.
    Logs,
    /// Use this catalog from now on, its queues opened.
    SetCatalog(Arc<Catalog>),
    /// Only of shard 0.
    CreateTopic(CreateTopic),
    /// Only of shard 0.
    DeleteTopic(DeleteTopic),
    /// Only of shard 0.
    SetTopic(SetTopic),
    /// Serve this socket.
    Serve(Accepted),
}

/// The answer to a [`Call`].
#[derive(Debug)]
pub(crate) enum Reply {
    Produced(Vec<ProduceOutcome>),
    Fetched { outcomes: Vec<FetchOutcome>, payload: Vec<Bytes> },
    Committed(Vec<CommitOutcome>),
    Listed(Vec<ListOffsetsOutcome>),
    Bounds(Vec<Option<QueueBounds>>),
    HandedBack(Vec<HandBackOutcome>),
    Made(Result<(), Status>),
    Cancelled(CancelDelayedAnswer),
    Logs(Vec<LogState>),
    Beaten(Vec<Result<Beat, Code>>),
    Granted(Vec<GrantOutcome>),
    GroupBeaten(GroupHeartbeatAnswer),
    Generation(Result<u64, Status>),
    Groups(Vec<GroupHere>),
    Dropped(Result<usize, Status>),
    Reset(Vec<ResetOutcome>),
    Clients(Vec<ClientEntry>),
    Undrained(Vec<QueueKey>),
    AccessSet(SetQueueAccessAnswer),
    Removed(RemoveQueuesAnswer),
    Created(CreateTopicAnswer),
    Deleted(DeleteTopicAnswer),
    TopicSet(SetTopicAnswer),
    Done,
}

/// This shard's end of the mesh.
pub(crate) type Mesh = mesh::Mesh<Call, Reply>;
/// The way back of a call.
pub(crate) type Responder = mesh::Responder<Call, Reply>;
