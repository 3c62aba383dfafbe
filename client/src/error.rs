//! What can go wrong, by what the caller does next.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use equeue_net::Code;
use equeue_record::{Offset, RecordError};
use thiserror::Error;

/// Why a client, consumer or admin call failed. Cheap to clone: one failure may end many calls.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// An option that cannot work.
    #[error("option {option}: {reason}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// No connection could be made; it is tried again.
    #[error("cannot connect to {server}")]
    Connect {
        /// Address of the server.
        server: Arc<str>,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The connection ended before the answer came; the request may or may not have been carried out.
    #[error("the connection to {server} was lost: {reason}")]
    ConnectionLost {
        /// Address of the server.
        server: Arc<str>,
        /// How it ended.
        reason: Arc<str>,
    },
    /// The server sent bytes that are not the protocol; the connection was closed.
    #[error("{server} does not keep to the protocol: {reason}")]
    Protocol {
        /// Address of the server.
        server: Arc<str>,
        /// What was wrong.
        reason: Arc<str>,
    },
    /// No answer in time; the request may or may not have been carried out.
    #[error("no answer to {request} from {server} within {after:?}")]
    TimedOut {
        /// Name of the request.
        request: &'static str,
        /// Address or name of the server.
        server: Arc<str>,
        /// How long was waited.
        after: Duration,
    },
    /// The server answered with a code.
    #[error("{server} refuses {request}: {code}{}{detail}", if .detail.is_empty() { "" } else { ": " })]
    Refused {
        /// Address or name of the server.
        server: Arc<str>,
        /// Name of the request.
        request: &'static str,
        /// The code.
        code: Code,
        /// When to ask again, ms; 0: not told.
        retry_after_ms: u32,
        /// More for a person.
        detail: Arc<str>,
    },
    /// None of the nameservers answered.
    #[error("none of {asked} nameservers answered; the last one: {last}")]
    NoNameserver {
        /// How many were asked.
        asked: usize,
        /// What the last one said.
        last: Arc<str>,
    },
    /// The cluster has no such topic, after several attempts.
    #[error("no topic {topic} (asked {attempts} times)")]
    TopicNotFound {
        /// Name of the topic.
        topic: Arc<str>,
        /// How often the nameservers were asked.
        attempts: u32,
    },
    /// The topic has no such queue, or its broker is away.
    #[error("queue {queue} of topic {topic} is not there: {reason}")]
    QueueNotFound {
        /// Name of the topic.
        topic: Arc<str>,
        /// Ordinal of the queue.
        queue: u32,
        /// Why.
        reason: &'static str,
    },
    /// No live broker of this name (or none at all).
    #[error("no live broker {broker}")]
    BrokerAway {
        /// Name of the broker; `*`: any.
        broker: Arc<str>,
    },
    /// A received batch is damaged; it is fetched again, nothing of it was delivered.
    #[error("batch at offset {offset} of queue {queue} of topic {topic} is damaged")]
    Damaged {
        /// Name of the topic.
        topic: Arc<str>,
        /// Ordinal of the queue.
        queue: u32,
        /// Offset wanted.
        offset: Offset,
        /// What is wrong with it.
        #[source]
        source: RecordError,
    },
    /// The queue belongs to another member by now, or its offset was reset: what was to be committed is not, and will be
    /// handled again.
    #[error(
        "queue {queue} of topic {topic} is not this member's any more, or was reset; nothing of it was committed"
    )]
    GrantLost {
        /// Name of the topic.
        topic: Arc<str>,
        /// Ordinal of the queue.
        queue: u32,
    },
    /// The other members of the group want other tags of the topic.
    #[error(
        "group {group} has another subscription for topic {topic}; give all members the same tags, or let this one replace the group's"
    )]
    SubscriptionConflict {
        /// Name of the group.
        group: Arc<str>,
        /// Name of the topic.
        topic: Arc<str>,
    },
    /// No runtime for blocking calls can be started.
    #[error("cannot start a thread for the consumer")]
    Runtime {
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl ClientError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::ConnectionLost { .. }
            | Self::TimedOut { .. }
            | Self::NoNameserver { .. }
            | Self::BrokerAway { .. }
            | Self::GrantLost { .. } => true,
            Self::Refused { code, .. } => {
                matches!(code.remedy(), equeue_net::Remedy::Retry | equeue_net::Remedy::RefreshRoute)
            }
            _ => false,
        }
    }
}

/// Why a message was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// `send_timeout` passed.
    #[error(
        "no acknowledgement from queue {queue} of topic {topic} within {after:?}; the message {}; last seen: {last}",
        if *.outcome_unknown { "may have been stored" } else { "was not stored" }
    )]
    TimedOut {
        /// Name of the topic.
        topic: Arc<str>,
        /// Ordinal of the queue.
        queue: u32,
        /// The timeout.
        after: Duration,
        /// The message was sent at least once: it may be stored.
        outcome_unknown: bool,
        /// What stood in the way.
        last: Arc<str>,
    },
    /// An earlier batch of the queue was given up while this one was on its way too: it may be stored, and sending it
    /// again could store it twice.
    #[error(
        "queue {queue} of topic {topic}: an earlier batch was given up; the message may have been stored"
    )]
    OutcomeUnknown {
        /// Name of the topic.
        topic: Arc<str>,
        /// Ordinal of the queue.
        queue: u32,
    },
    /// The broker refuses the batch for good.
    #[error("broker {broker} refuses a batch for queue {queue} of topic {topic}: {code}")]
    Refused {
        /// Name of the broker.
        broker: Arc<str>,
        /// Name of the topic.
        topic: Arc<str>,
        /// Ordinal of the queue.
        queue: u32,
        /// The code.
        code: Code,
    },
    /// The records could not be packed.
    #[error("a batch for queue {queue} of topic {topic} cannot be made")]
    Encoding {
        /// Name of the topic.
        topic: Arc<str>,
        /// Ordinal of the queue.
        queue: u32,
        /// Why.
        #[source]
        source: RecordError,
    },
    /// The message alone is larger than a batch may be.
    #[error("a message of {size} bytes for topic {topic} is larger than a batch may be ({limit} bytes)")]
    TooLarge {
        /// Name of the topic.
        topic: Arc<str>,
        /// Bytes of the message.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The topic is not known to the cluster, or has no queue that may be sent to, after several attempts.
    #[error("no route to topic {topic}: {reason}")]
    NoRoute {
        /// Name of the topic.
        topic: Arc<str>,
        /// What was found.
        reason: Arc<str>,
    },
    /// The producer was closed before the message was sent.
    #[error("the producer is closed")]
    Closed,
}

/// Why a message was not taken at once.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// The window is full; wait for acknowledgements.
    #[error("the window of the producer is full")]
    Full,
    /// The route is not known yet; it is being asked for.
    #[error("the route to topic {topic} is not known yet")]
    NoRoute {
        /// Name of the topic.
        topic: Arc<str>,
    },
    /// It can never be taken.
    #[error(transparent)]
    Rejected(#[from] SendError),
}

/// What a handler says about a message it could not handle.
#[derive(Debug, Error)]
pub enum HandlerError {
    /// The message shall come again after a while.
    #[error("the message could not be handled, it comes again: {0}")]
    Retry(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Go on without it; it counts as handled.
    #[error("the message is left out: {0}")]
    Skip(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl HandlerError {
    /// Why, in words.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Retry(error) | Self::Skip(error) => String::from(&*crate::routes::with_causes(&**error)),
        }
    }

    /// [`HandlerError::Retry`] with any error or text.
    pub fn retry(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Retry(error.into())
    }

    /// [`HandlerError::Skip`] with any error or text.
    pub fn skip(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Skip(error.into())
    }
}
