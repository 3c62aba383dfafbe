//! Answer codes: one number, one text, one remedy each; numbers are never used again.

/// What a client does about a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing is wrong.
    None,
    /// Ask again after `retry_after_ms` (or the client's own back-off).
    Retry,
    /// Fetch the route again, then ask again.
    RefreshRoute,
    /// Asking again gives the same answer.
    Fatal,
}

macro_rules! codes {
    ($($number:literal $name:ident $remedy:ident $text:literal;)*) => {
        /// The code in front of every answer, and of every item of Produce, Fetch and Commit answers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Code { $(#[doc = $text] $name = $number,)* }

        impl Code {
            /// Every code, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code of this number; [`Code::Internal`] for one that this build does not know.
            pub const fn from_number(number: u16) -> Self {
                match number { $($number => Self::$name,)* _ => Self::Internal }
            }

            /// One sentence for a person.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What a client does about it.
            pub const fn remedy(self) -> Remedy {
                match self { $(Self::$name => Remedy::$remedy,)* }
            }
        }
    };
}

codes! {
    0 Ok None "done";
    1 Duplicate None "stored before: the answer carries the original offset";
    2 Busy Retry "the broker is at a limit; ask again later";
    3 DiskFull Retry "the broker's disk is full; consumers go on, producers wait";
    4 LogFailed Retry "the broker's log failed a write or sync and takes no more until it is restarted";
    5 NotOwner RefreshRoute "the queue is served by another broker";
    6 StaleEpoch Fatal "the epoch in the request is older than the one in force";
    7 SequenceGap Retry "a batch before this one is missing; resend from the gap";
    8 UnknownProducer Retry "the broker knows nothing of this producer; start a new producer epoch";
    9 TopicNotFound RefreshRoute "no such topic";
    10 QueueNotFound RefreshRoute "no such queue";
    11 QueueSealed RefreshRoute "sending to this queue is forbidden";
    12 QueueHidden RefreshRoute "consuming from this queue is forbidden";
    13 OffsetOutOfRange Fatal "the offset lies outside the queue";
    14 OffsetReset Fatal "the group's offset was reset";
    15 SubscriptionConflict Fatal "the group has another subscription for this topic";
    16 MessageTooLarge Fatal "the batch is larger than the broker accepts";
    17 Corrupt Fatal "the bytes do not match their checksum";
    18 Unauthenticated Fatal "authenticate first";
    19 Forbidden Fatal "not allowed";
    20 Unsupported Fatal "this build does not know that request or option";
    21 Internal Fatal "the broker met an error of its own; its log tells which";
    22 Invalid Fatal "the request is malformed";
    23 TopicExists Fatal "a topic of this name exists with another layout";
    24 VersionConflict RefreshRoute "the topic map was changed by somebody else";
    25 NotReady Retry "the broker is starting or stopping";
    26 DataDamaged Fatal "the stored bytes are damaged; the broker's log names file and position";
    27 StaleGeneration Retry "the group has a newer generation; learn it from the coordinator";
    28 QueueHeld Retry "the queue is granted to another member of the group";
    29 GroupNotFound Fatal "no such consumer group";
    30 GroupActive Fatal "the group has members; stop them first";
    31 NotDrained Fatal "messages that a group has not consumed would be lost";
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}
