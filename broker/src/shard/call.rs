//! What shards ask of one another.

use std::sync::Arc;

use bytes::Bytes;
use equeue_net::api::{
    AckLevel, CancelDelayed, CancelDelayedAnswer, CommitItem, CommitOutcome, CreateTopic, CreateTopicAnswer,
    DeleteTopic, DeleteTopicAnswer, FetchOutcome, HandBackItem, HandBackOutcome, ListOffsetsOutcome,
    LogState, OffsetAt, ProduceOutcome, Status,
};
use equeue_net::transport::listener::Accepted;
use equeue_record::QueueKey;
use equeue_storage::log::QueueBounds;

use super::mesh;
use crate::catalog::Catalog;
use crate::fetch::FetchJob;

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
        /// Its queues.
        items: Vec<CommitItem>,
    },
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
    Created(CreateTopicAnswer),
    Deleted(DeleteTopicAnswer),
    Done,
}

/// This shard's end of the mesh.
pub(crate) type Mesh = mesh::Mesh<Call, Reply>;
/// The way back of a call.
pub(crate) type Responder = mesh::Responder<Call, Reply>;
