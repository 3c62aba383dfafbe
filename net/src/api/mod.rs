//! The requests and answers: one file per family, one table of kinds.
//!
//! Cold requests are owned structs. The hot ones (Produce, Fetch and their answers) are one table with a vector of
//! fixed structs; their readers borrow from the frame and allocate nothing.

mod admin;
mod consume;
mod grants;
mod group_admin;
mod inspect;
mod kind;
mod membership;
mod produce;
mod routes;
mod session;
mod topic_settings;

pub use admin::*;
pub use consume::*;
pub use grants::*;
pub use group_admin::*;
pub use inspect::*;
pub use kind::{Kind, KindRow, Operation, Resource, Role};
pub use membership::*;
pub use produce::*;
pub use routes::*;
pub use session::*;
pub use topic_settings::*;

use thiserror::Error;

/// A request or answer header that was not what its kind promises.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The flatbuffers verifier refused it.
    #[error("the {kind} header is malformed: {reason}")]
    Malformed {
        /// Name of the kind.
        kind: &'static str,
        /// What the verifier said.
        reason: String,
    },
    /// A field is outside its range or a required one is missing.
    #[error("field {field} of the {kind} header is missing or not allowed")]
    Field {
        /// Name of the kind.
        kind: &'static str,
        /// Name of the field.
        field: &'static str,
    },
    /// A name or list is longer than its limit.
    #[error("field {field} of the {kind} header has {length} entries or bytes, the limit is {limit}")]
    TooLong {
        /// Name of the kind.
        kind: &'static str,
        /// Name of the field.
        field: &'static str,
        /// Length found.
        length: usize,
        /// The limit.
        limit: usize,
    },
}

/// What goes into the header of a frame.
pub trait Message: Sized {
    /// Its number; an answer has its request's.
    const KIND: Kind;

    /// Appends the flatbuffers header to `out`.
    fn encode(&self, out: &mut Vec<u8>);

    /// Verifies and reads a header.
    fn decode(header: &[u8]) -> Result<Self, DecodeError>;
}

/// A request that has one kind of answer.
pub trait Request: Message {
    /// Its answer.
    type Answer: Answer;
}

/// Every answer begins with a code.
pub trait Answer: Message {
    /// An answer that carries nothing but a code (and a hint for a person).
    fn failed(status: Status) -> Self;
    /// The code in front.
    fn status(&self) -> &Status;
}

/// The front of every answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What became of the request.
    pub code: crate::Code,
    /// When to ask again, for [`crate::Remedy::Retry`]; 0: the asker's own back-off.
    pub retry_after_ms: u32,
    /// More for a person: names, values, what to do. Empty on the hot path.
    pub detail: String,
}

impl Status {
    /// All is well.
    pub const OK: Self = Self { code: crate::Code::Ok, retry_after_ms: 0, detail: String::new() };

    /// A code with a text for a person.
    pub fn new(code: crate::Code, detail: impl Into<String>) -> Self {
        Self { code, retry_after_ms: 0, detail: detail.into() }
    }

    /// BUSY with the time to wait.
    pub fn busy(retry_after_ms: u32, detail: impl Into<String>) -> Self {
        Self { code: crate::Code::Busy, retry_after_ms, detail: detail.into() }
    }
}

impl Default for Status {
    fn default() -> Self {
        Self::OK
    }
}

macro_rules! answers {
    ($($name:ident)*) => { $(impl Answer for $name {
        #[allow(clippy::needless_update, reason = "some answers have nothing but their status")]
        fn failed(status: Status) -> Self {
            Self { status, ..Self::default() }
        }
        fn status(&self) -> &Status {
            &self.status
        }
    })* };
}

answers! { HelloAnswer HeartbeatAnswer ProduceAnswer FetchAnswer CommitOffsetsAnswer FetchOffsetsAnswer ListOffsetsAnswer
CreateTopicAnswer DeleteTopicAnswer ListTopicsAnswer DescribeTopicAnswer DescribeBrokerAnswer
GroupHeartbeatAnswer LeaveGroupAnswer LeaseHeartbeatAnswer GrantQueuesAnswer ReleaseQueuesAnswer HandBackAnswer
ListGroupsAnswer DescribeGroupAnswer DeleteGroupAnswer ResetOffsetsAnswer SetQueueAccessAnswer RemoveQueuesAnswer
ListClientsAnswer BrokerStatsAnswer CancelDelayedAnswer SetTopicAnswer
RegisterBrokerAnswer UnregisterBrokerAnswer GetRoutesAnswer GetClusterAnswer }
