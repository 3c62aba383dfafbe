//! The real binary, as an operator uses it: each test has a data directory and ports of its own.

mod basics;
mod bench;
mod config;
mod delayed;
mod doctor;
mod groups;
mod harness;
mod messages;
mod repair;
mod servers;
mod topics;
