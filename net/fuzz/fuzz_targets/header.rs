//! Any bytes as the header of a message: an error, or a message that is the same after it was written and read again.
//! The first byte chooses the message.
#![no_main]

use std::fmt::Debug;

use equeue_net::api::*;
use libfuzzer_sys::fuzz_target;

fn check<M: Message + PartialEq + Debug>(header: &[u8]) {
    if let Ok(message) = M::decode(header) {
        let mut written = Vec::new();
        message.encode(&mut written);
        assert_eq!(M::decode(&written).as_ref(), Ok(&message));
    }
}

macro_rules! messages {
    ($choice:expr, $header:expr; $($name:ident)*) => {{
        const CHECKS: &[fn(&[u8])] = &[$(check::<$name>),*];
        CHECKS[usize::from($choice) % CHECKS.len()]($header);
    }};
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, header)) = bytes.split_first() else { return };
    messages! { *choice, header;
        Hello HelloAnswer Heartbeat HeartbeatAnswer Produce ProduceAnswer Fetch FetchAnswer CommitOffsets
        CommitOffsetsAnswer FetchOffsets FetchOffsetsAnswer ListOffsets ListOffsetsAnswer CreateTopic
        CreateTopicAnswer DeleteTopic DeleteTopicAnswer ListTopics ListTopicsAnswer DescribeTopic
        DescribeTopicAnswer DescribeBroker DescribeBrokerAnswer RegisterBroker RegisterBrokerAnswer
        UnregisterBroker UnregisterBrokerAnswer GroupHeartbeat GroupHeartbeatAnswer LeaveGroup LeaveGroupAnswer
        LeaseHeartbeat LeaseHeartbeatAnswer GrantQueues GrantQueuesAnswer ReleaseQueues ReleaseQueuesAnswer
        HandBack HandBackAnswer ListGroups ListGroupsAnswer DescribeGroup DescribeGroupAnswer DeleteGroup
        DeleteGroupAnswer ResetOffsets ResetOffsetsAnswer SetQueueAccess SetQueueAccessAnswer RemoveQueues
        RemoveQueuesAnswer ListClients ListClientsAnswer BrokerStats BrokerStatsAnswer CancelDelayed
        CancelDelayedAnswer SetTopic SetTopicAnswer GetRoutes GetRoutesAnswer GetCluster GetClusterAnswer }
    if let Ok(view) = FetchRef::decode(header) {
        for item in view.items() {
            assert_eq!(view.tags(&item).count(), usize::from(item.tags_count));
        }
    }
    if let Ok(view) = ProduceRef::decode(header, 100) {
        assert_eq!(view.items().map(|item| u64::from(item.bytes)).sum::<u64>(), 100);
    }
});
