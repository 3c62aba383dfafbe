//! The flatbuffers tables of `net/schema`, as flatc wrote them (`net/schema/generate.sh`).
//!
//! **Invariant**: nothing outside [`crate::codec`] and the borrowed readers of [`crate::api`] names these types.

// `allow`, not `expect`: which of these lints the generated code meets changes with each version of flatc.
#[allow(
    unsafe_code,
    missing_docs,
    unused_imports,
    dead_code,
    unreachable_pub,
    rust_2018_idioms,
    mismatched_lifetime_syntaxes,
    clippy::all,
    clippy::pedantic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "written by flatc"
)]
#[rustfmt::skip]
mod generated {
    include!("generated/protocol_generated.rs");
}

pub(crate) use generated::equeue::wire;
