//! The table of request kinds: number, role that answers it, operation and resource for access rules.

/// Which server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Brokers.
    Broker,
    /// Nameservers.
    Nameserver,
    /// Both.
    Both,
}

/// What the request does, for access rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opens or keeps the connection.
    Session,
    /// Sends messages.
    Send,
    /// Reads messages or offsets.
    Consume,
    /// Looks at the cluster, topics, groups.
    Describe,
    /// Changes topics, groups or brokers.
    Alter,
    /// Servers among themselves.
    Cluster,
}

/// What it is done to, for access rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Nothing of its own.
    None,
    /// Topics.
    Topic,
    /// Consumer groups.
    Group,
    /// The cluster.
    Cluster,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct KindRow {
    /// Which server answers.
    pub role: Role,
    /// What it does.
    pub operation: Operation,
    /// To what.
    pub resource: Resource,
}

macro_rules! kinds {
    ($($number:literal $name:ident $role:ident $operation:ident $resource:ident $doc:literal;)*) => {
        /// The kind of a request and of its answer; numbers are never used again.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Kind { $(#[doc = $doc] $name = $number,)* }

        impl Kind {
            /// Every kind, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The kind of this number, when this build knows it.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// Its name as in docs/protocol.md.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Who answers, what it does, to what.
            pub const fn row(self) -> KindRow {
                match self {
                    $(Self::$name => KindRow {
                        role: Role::$role, operation: Operation::$operation, resource: Resource::$resource,
                    },)*
                }
            }
        }
    };
}

kinds! {
    1 Hello Both Session None "Opens a connection: versions, names, limits.";
    2 Authenticate Both Session None "Proves who the peer is; 1..n rounds.";
    3 Heartbeat Both Session None "Says that the peer lives and what it uses.";
    10 Produce Broker Send Topic "Stores record batches.";
    11 CancelDelayed Broker Send Topic "Takes back a delayed message that is not due yet.";
    20 Fetch Broker Consume Topic "Reads record batches of several queues; may wait for them.";
    21 CommitOffsets Broker Consume Group "Stores how far a group has come.";
    22 FetchOffsets Broker Consume Group "How far a group has come.";
    23 ListOffsets Broker Consume Topic "First, last, or by time.";
    24 GroupHeartbeat Broker Consume Group "Joins a group and stays in it; tells members, subscriptions and queues.";
    25 LeaveGroup Broker Consume Group "Leaves a group; its grants on this broker end.";
    26 LeaseHeartbeat Broker Consume Group "Extends the grants of a member on this shard.";
    27 GrantQueues Broker Consume Group "Asks for queues to own; may wait until their holders release them.";
    28 ReleaseQueues Broker Consume Group "Gives queues up, with a last commit.";
    29 HandBack Broker Consume Group "Gives messages back, to come again later or to become dead letters.";
    40 CreateTopic Broker Alter Topic "Creates a topic, or completes a half-created one.";
    41 DeleteTopic Broker Alter Topic "Deletes a topic.";
    42 ListTopics Broker Describe Topic "The topics of this broker's catalog.";
    43 DescribeTopic Broker Describe Topic "One topic with the state of its queues here.";
    44 DescribeBroker Broker Describe Cluster "What this broker is, its shards and logs.";
    45 SetQueueAccess Broker Alter Topic "Allows or forbids sending to and consuming from queues.";
    46 RemoveQueues Broker Alter Topic "Removes the highest queues of a topic.";
    47 ListGroups Broker Describe Group "The groups that this broker knows, online or not.";
    48 DescribeGroup Broker Describe Group "Members, grants, offsets and lag of one group on this broker.";
    49 DeleteGroup Broker Alter Group "Forgets a group that has no members.";
    50 ResetOffsets Broker Alter Group "Sets the offsets of a group; takes effect on running consumers.";
    51 ListClients Broker Describe Cluster "The producers and consumers connected to this broker.";
    52 BrokerStats Broker Describe Cluster "Counters of this broker.";
    53 SetTopic Broker Alter Topic "Changes or asks for the settings of a topic.";
    60 RegisterBroker Nameserver Cluster Cluster "A broker's full snapshot, every 5 s.";
    61 UnregisterBroker Nameserver Cluster Cluster "A broker stops in order.";
    62 GetRoutes Nameserver Describe Topic "Where the queues of topics live.";
    63 GetCluster Nameserver Describe Cluster "The live brokers.";
}
