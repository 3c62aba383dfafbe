//! Headers that brokers add to messages that they copy. Their names begin with `%`, which no application's may; their
//! values are text, so that they can be shown to people.

/// Id that a delayed message had from the start; the message has another one once it is delivered.
pub const ID: &str = "%id";
/// Id of the message that a retried or dead message is a copy of.
pub const ORIGIN_ID: &str = "%origin-id";
/// Topic of that message.
pub const ORIGIN_TOPIC: &str = "%origin-topic";
/// Ordinal of its queue.
pub const ORIGIN_QUEUE: &str = "%origin-queue";
/// Its offset there.
pub const ORIGIN_OFFSET: &str = "%origin-offset";
/// How often the group has failed to handle it.
pub const ATTEMPT: &str = "%attempt";
/// When the group first failed, ms UTC.
pub const FIRST_FAILED_MS: &str = "%first-failed-ms";
/// When it failed last, ms UTC.
pub const LAST_FAILED_MS: &str = "%last-failed-ms";
/// What the handler said the last time.
pub const REASON: &str = "%reason";

/// Whether a header of this name is a broker's own.
pub fn is_system(name: &str) -> bool {
    name.starts_with('%')
}
