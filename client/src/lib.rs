//! The client library of EQueue: producers, consumers and the admin client, on tokio.
//!
//! A [`Client`] knows the nameservers and keeps the routes; [`Producer`]s send, [`Consumer`]s receive, [`Admin`] looks
//! and changes. All futures are `Send`; the library runs on current-thread and multi-thread runtimes alike.
//!
//! **Invariants**: no glommio here; an unreachable nameserver or broker never stops a client from starting or working;
//! every buffer, window, retry and wait has a limit; a batch is frozen once it was sent, so that the broker's sequence
//! rules make a resend harmless.

mod admin;
mod client;
mod connection;
mod consumer;
mod error;
mod message;
mod pool;
mod producer;
mod retry;
mod routes;

pub use admin::{Admin, BrokerResult, Delayed, GroupOffset, QueueOffset, QueueReset, ResetTo};
pub use client::{Client, ClientBuilder};
pub use consumer::allocation::{
    AllocateRoundRobin, Allocation, AllocationStrategy, Average, ByConfig, Sticky,
};
pub use consumer::{
    Ack, AssignmentEvent, AssignmentListener, BlockingConsumer, Consumer, ConsumerOptions, ConsumerStats,
    Context, MessageStream, Mode, OnError, Order, PushConsumer, PushOptions, QueueEnd, QueuePosition,
    ReceivedBatch, StartAt, Subscription,
};
pub use equeue_net::Code;
pub use equeue_net::api::{AckLevel, OffsetAt, TopicRetention};
pub use equeue_record::{Codec, MessageId, Offset, QueueKey, Record, key_hash};
pub use error::{ClientError, EnqueueError, HandlerError, SendError};
pub use message::{Header, Message, Origin, Receipt, Received, Text};
pub use producer::selector::{Choice, HashOfKey, QueueSelector, RoundRobin, TopicQueues};
pub use producer::{Delivery, OnDelivery, Outcomes, Producer, ProducerOptions, ProducerStats};

/// The code of the guide compiles.
#[cfg(doctest)]
#[doc = include_str!("../../docs/client.md")]
struct Guide;
