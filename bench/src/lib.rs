//! Load generator and verifier of EQueue: what `equeue bench` runs.
//!
//! The pure parts (what is sent: [`workload`], what must arrive: [`verify`], when: [`schedule`], who runs where:
//! [`placement`], what is demanded of the figures: [`assertion`]) know no clock and no socket. The generator itself
//! measures from outside, through the public client library, and keeps the broker in a process of its own so that the
//! CPU time of the two can be told apart.
//!
//! **Invariant:** a run that fell behind, shared cores with the broker, or was limited by the generator says so.

pub mod assertion;
pub mod cli;
mod compare;
mod driver;
pub mod environment;
pub mod histogram;
mod hlog;
mod html;
pub mod keys;
mod log_alone;
pub mod machine;
mod meter;
mod network;
mod outcome;
mod own_broker;
pub mod placement;
mod progress;
pub mod report;
mod run;
pub mod schedule;
mod scratch;
pub mod search;
pub mod sizes;
pub mod stamp;
mod stop;
mod times;
pub mod verify;
pub mod workload;

pub use outcome::Outcome;
pub use run::run;
