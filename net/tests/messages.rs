//! Every message: round trip, truncations, flipped bits, limits, golden bytes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failed test may panic")]

use std::fmt::Debug;

use bytes::BytesMut;
use equeue_net::api::*;
use equeue_net::frame::{FRAME_BYTES_MAX, FRAME_HEADER_LEN, put_frame, take_frame};
use equeue_net::limits::{
    DETAIL_BYTES_MAX, FETCH_ITEMS_MAX, NAME_BYTES_MAX, OFFSET_ITEMS_MAX, PRODUCE_ITEMS_MAX, REASON_BYTES_MAX,
    TOPICS_MAX,
};
use equeue_net::{Code, put_failure, put_fetch_answer, put_produce_answer};
use equeue_record::{Offset, QueueKey};

const INCARNATION: u128 = 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10;

fn status() -> Status {
    Status { code: Code::Busy, retry_after_ms: 250, detail: "the flush buffers are full: größer".into() }
}

fn broker() -> BrokerEntry {
    BrokerEntry {
        cluster: "default".into(),
        name: "broker-a".into(),
        group: 0x00ab_cdef,
        role: BrokerRole::Slave,
        master_epoch: 3,
        address: "10.0.0.1:9494".into(),
        http_address: String::new(),
        shards: 4,
        incarnation: INCARNATION,
        created_ms: -5,
    }
}

fn queue(ordinal: u32, writable: bool, readable: bool) -> QueueEntry {
    QueueEntry { ordinal, key: QueueKey(u64::MAX - u64::from(ordinal)), shard: 3, writable, readable }
}

fn topic() -> TopicSnapshot {
    TopicSnapshot {
        name: "orders".into(),
        version: u64::MAX,
        map: vec!["broker-a".into(), "broker-b".into(), "broker-a".into()],
        queues: vec![queue(0, true, false), queue(2, false, true)],
    }
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

fn outcomes() -> Vec<CommitOutcome> {
    vec![
        CommitOutcome { queue: QueueKey(1), code: Code::Ok, committed: Some(Offset(0)), grant_epoch: 0 },
        CommitOutcome { queue: QueueKey(2), code: Code::StaleEpoch, committed: None, grant_epoch: 9 },
    ]
}

fn produce() -> Produce {
    Produce {
        level: AckLevel::Replicated,
        items: vec![
            ProduceItem { queue: QueueKey(7), bytes: 100 },
            ProduceItem { queue: QueueKey(u64::MAX), bytes: u32::MAX },
        ],
    }
}

fn produce_answer() -> ProduceAnswer {
    let outcome = ProduceOutcome {
        code: Code::SequenceGap,
        level: AckLevel::Memory,
        retry_after_ms: 1,
        base_offset: Offset(u64::MAX),
        append_time_ms: i64::MIN,
    };
    ProduceAnswer { status: status(), outcomes: vec![outcome; 3] }
}

fn fetch() -> Fetch {
    let item = FetchItem {
        queue: QueueKey(7),
        offset: Offset(8),
        bytes_max: 9,
        grant_epoch: 10,
        tags_start: 1,
        tags_count: 2,
    };
    Fetch {
        fetch_id: 5,
        wait_ms_max: 1000,
        bytes_max: 1 << 20,
        items: vec![item, FetchItem { tags_start: 0, tags_count: 0, ..item }],
        tag_hashes: vec![1, 2, u32::MAX],
        group: "billing".into(),
    }
}

fn fetch_answer() -> FetchAnswer {
    let outcome = FetchOutcome {
        queue: QueueKey(1),
        code: Code::OffsetOutOfRange,
        grant_epoch: 9,
        bytes: 2,
        start_offset: Offset(3),
        high_watermark: Offset(4),
        next_offset: Offset(5),
    };
    FetchAnswer { status: Status::OK, fetch_id: 77, outcomes: vec![outcome; 2] }
}

fn topic_route() -> TopicRoute {
    let live = queue(0, true, true);
    TopicRoute {
        name: "orders".into(),
        code: Code::Ok,
        version: 2,
        queues: vec![
            QueueRoute { ordinal: 0, broker: "broker-a".into(), live: Some(live) },
            QueueRoute { ordinal: 1, broker: "broker-b".into(), live: None },
        ],
    }
}

/// A message, its round trip, its truncations, its flipped bits.
fn check<M: Message + PartialEq + Debug>(message: &M) {
    let mut header = Vec::new();
    message.encode(&mut header);
    assert_eq!(M::decode(&header).as_ref(), Ok(message));
    for len in 0..header.len() {
        // Of a flatbuffer nothing but the padding at its end can be missing without being missed.
        if let Ok(found) = M::decode(&header[..len]) {
            assert_eq!(&found, message, "cut to {len} of {}", header.len());
            assert!(header[len..].iter().all(|byte| *byte == 0) && header.len() - len < 8);
        }
    }
    for bit in 0..header.len() * 8 {
        let mut flipped = header.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // An error or another message; never a panic. What is read can be written again.
        if let Ok(found) = M::decode(&flipped) {
            found.encode(&mut Vec::new());
        }
        if M::KIND == Kind::Fetch
            && let Ok(view) = FetchRef::decode(&flipped)
        {
            for item in view.items() {
                assert_eq!(view.tags(&item).count(), usize::from(item.tags_count));
            }
        }
        if M::KIND == Kind::Produce
            && let Ok(view) = ProduceRef::decode(&flipped, 100)
        {
            assert_eq!(view.items().map(|item| u64::from(item.bytes)).sum::<u64>(), 100);
        }
    }
}

fn check_both<R: Request + PartialEq + Debug>(request: &R, answer: &R::Answer)
where
    R::Answer: PartialEq + Debug,
{
    check(request);
    check(answer);
    let failed = R::Answer::failed(status());
    let mut wire = Vec::new();
    put_failure(&mut wire, R::KIND as u16, 1, &status()).unwrap();
    assert_eq!(R::Answer::decode(&wire[FRAME_HEADER_LEN..]).as_ref(), Ok(&failed));
    assert_eq!(failed.status(), &status());
    check(&failed);
    check(&R::Answer::failed(Status::OK));
    assert_eq!(R::KIND, R::Answer::KIND);
}

#[test]
fn session() {
    check_both(
        &Hello { version_min: 1, version_max: 2, client_id: "client".into(), incarnation: INCARNATION },
        &HelloAnswer {
            status: status(),
            version: 1,
            shard: 2,
            shards: 3,
            server: "broker-a".into(),
            incarnation: u128::MAX,
            frame_bytes_max: 8 << 20,
            batch_bytes_max: 1 << 20,
            mechanisms: names(&["PLAIN", "SCRAM-SHA-256"]),
        },
    );
    check_both(
        &Heartbeat { producing: names(&["a", "b"]), group: "g".into(), consuming: names(&["a"]) },
        &HeartbeatAnswer { status: status() },
    );
    check(&Heartbeat { producing: vec![], group: String::new(), consuming: vec![] });
}

#[test]
fn produce_and_fetch() {
    check_both(&produce(), &produce_answer());
    check_both(&fetch(), &fetch_answer());
    check(&Produce { level: AckLevel::Durable, items: vec![] });
    check(&Fetch {
        fetch_id: 0,
        wait_ms_max: 0,
        bytes_max: 0,
        items: vec![],
        tag_hashes: vec![],
        group: String::new(),
    });
}

#[test]
fn offsets() {
    let item = CommitItem { queue: QueueKey(1), offset: Offset(2), grant_epoch: 3, tries: Tries::default() };
    check_both(
        &CommitOffsets {
            group: "g".into(),
            items: vec![item, CommitItem { queue: QueueKey(item.queue.0 + 1), ..item }],
        },
        &CommitOffsetsAnswer { status: status(), outcomes: outcomes() },
    );
    check_both(
        &FetchOffsets { group: "g".into(), queues: vec![QueueKey(1), QueueKey(u64::MAX)] },
        &FetchOffsetsAnswer { status: status(), outcomes: outcomes() },
    );
    let outcome = ListOffsetsOutcome { queue: QueueKey(1), code: Code::QueueNotFound, offset: Offset(2) };
    let items = [OffsetAt::First, OffsetAt::Last, OffsetAt::Time(-1), OffsetAt::Time(i64::MAX)];
    check_both(
        &ListOffsets { items: items.into_iter().map(|at| (QueueKey(3), at)).collect() },
        &ListOffsetsAnswer { status: status(), outcomes: vec![outcome] },
    );
}

#[test]
fn admin() {
    let map = names(&["broker-a", "broker-b"]);
    check_both(
        &CreateTopic { topic: "orders".into(), map: map.clone(), queues: 4, version: 1, auto: true },
        &CreateTopicAnswer { status: status(), topic: Some(topic()) },
    );
    check_both(&DeleteTopic { topic: "orders".into() }, &DeleteTopicAnswer { status: status() });
    check_both(&ListTopics {}, &ListTopicsAnswer { status: status(), topics: vec![topic(), topic()] });
    let state =
        QueueState { queue: queue(1, true, true), start_offset: Offset(5), high_watermark: Offset(6) };
    check_both(
        &DescribeTopic { topic: "orders".into() },
        &DescribeTopicAnswer { status: status(), version: 9, map, queues: vec![state] },
    );
    let log =
        LogState { log: 1, shard: 2, start_position: 3, durable_position: u64::MAX, state: "ok".into() };
    check_both(
        &DescribeBroker {},
        &DescribeBrokerAnswer {
            status: status(),
            broker: Some(broker()),
            logs: vec![log; 2],
            cpu_us: 1,
            resident_bytes: 2,
            version: "0.1.0".into(),
        },
    );
}

#[test]
fn routes() {
    check_both(
        &RegisterBroker { broker: broker(), topics: vec![topic(), topic()] },
        &RegisterBrokerAnswer { status: status() },
    );
    check_both(
        &UnregisterBroker { cluster: "default".into(), name: "broker-a".into(), incarnation: 1 },
        &UnregisterBrokerAnswer { status: status() },
    );
    check_both(
        &GetRoutes { cluster: "default".into(), topics: names(&["orders", "bills"]) },
        &GetRoutesAnswer {
            status: status(),
            brokers: vec![broker(); 2],
            topics: vec![topic_route(); 2],
            settling: true,
        },
    );
    check_both(
        &GetCluster { cluster: String::new() },
        &GetClusterAnswer { status: status(), brokers: vec![broker()] },
    );
}

fn member(number: u128) -> GroupMember {
    GroupMember {
        client_id: format!("worker-{number}"),
        incarnation: INCARNATION + number,
        topics: names(&["orders", "bills"]),
        unreachable: names(&["broker-b"]),
        share: vec![ShareQueue { topic: 0, queue: u32::MAX }, ShareQueue { topic: 1, queue: 0 }],
    }
}

#[test]
fn membership() {
    let subscription = |topic: &str, tags: &[&str], replace| Subscription {
        topic: topic.into(),
        tags: names(tags),
        replace,
    };
    let topic = GroupTopic {
        name: "orders".into(),
        tags: names(&["a", "b"]),
        version: 7,
        map: names(&["broker-a", "broker-b", "broker-a"]),
    };
    let request = GroupHeartbeat {
        group: "billing".into(),
        generation: 5,
        hash: u64::MAX,
        full: Some(Membership {
            subscriptions: vec![subscription("orders", &["a"], true), subscription("bills", &[], false)],
            unreachable: names(&["broker-b"]),
            share: vec![ShareQueue { topic: 1, queue: 7 }],
            share_generation: 5,
        }),
    };
    check_both(
        &request,
        &GroupHeartbeatAnswer {
            status: status(),
            generation: 6,
            session_ms: 10_000,
            lease_ms: 5_000,
            want_full: true,
            changed: true,
            members: vec![member(1), member(2)],
            topics: vec![topic],
            conflicts: names(&["bills"]),
        },
    );
    check(&GroupHeartbeat { full: None, ..request.clone() });
    check(&GroupHeartbeat { full: Some(Membership::default()), ..request });
    check_both(&LeaveGroup { group: "billing".into() }, &LeaveGroupAnswer { status: status() });
}

#[test]
fn grants() {
    let held = vec![
        HeldQueue { queue: QueueKey(1), grant_epoch: 2 },
        HeldQueue { queue: QueueKey(9), grant_epoch: u32::MAX },
    ];
    let cached = vec![CachedQueue { queue: QueueKey(9), messages: u32::MAX }];
    let beat = LeaseHeartbeat { group: "billing".into(), generation: 4, hash: 5, held: Some(held), cached };
    check_both(
        &beat,
        &LeaseHeartbeatAnswer {
            status: status(),
            lease_ms: 5_000,
            want_full: true,
            release: vec![QueueKey(1)],
            reset: vec![OffsetReset { queue: QueueKey(2), offset: Offset(3), grant_epoch: 4 }],
            lost: vec![QueueKey(3), QueueKey(4)],
        },
    );
    check(&LeaseHeartbeat { held: None, ..beat.clone() });
    check(&LeaseHeartbeat { held: Some(vec![]), cached: vec![], ..beat });
    let granted = |queue, committed| GrantOutcome {
        queue: QueueKey(queue),
        code: Code::QueueHeld,
        grant_epoch: 3,
        committed,
        start_offset: Offset(4),
        high_watermark: Offset(5),
        tries: Tries { count: 1, since_ms: i64::MIN },
    };
    check_both(
        &GrantQueues {
            group: "billing".into(),
            generation: 1,
            wait_ms_max: 2,
            queues: vec![QueueKey(3), QueueKey(2)],
        },
        &GrantQueuesAnswer {
            status: status(),
            lease_ms: 5_000,
            outcomes: vec![granted(1, None), granted(2, Some(Offset(0)))],
        },
    );
    let release = |queue, commit| ReleaseItem {
        queue: QueueKey(queue),
        grant_epoch: 7,
        commit,
        tries: Tries::default(),
    };
    check_both(
        &ReleaseQueues {
            group: "billing".into(),
            items: vec![release(1, Some(Offset(0))), release(2, None)],
        },
        &ReleaseQueuesAnswer { status: status(), outcomes: outcomes() },
    );
}

#[test]
fn hand_back_and_delay() {
    let item = |offset, reason: &str| HandBackItem {
        queue: QueueKey(1),
        offset: Offset(offset),
        grant_epoch: 3,
        delay_ms: 4,
        reason: reason.into(),
        tries: Tries::default(),
    };
    let outcome = HandBackOutcome {
        queue: QueueKey(1),
        offset: Offset(2),
        code: Code::Ok,
        attempt: 16,
        dead: true,
        repeated: false,
    };
    check_both(
        &HandBack {
            group: "g".into(),
            attempts_max: 16,
            items: vec![
                item(1, "größer"),
                HandBackItem { tries: Tries { count: 3, since_ms: -4 }, ..item(2, "") },
            ],
        },
        &HandBackAnswer {
            status: status(),
            outcomes: vec![outcome, HandBackOutcome { dead: false, repeated: true, ..outcome }],
        },
    );
    let mut header = Vec::new();
    HandBack { group: "g".into(), attempts_max: 0, items: vec![item(1, &"ä".repeat(REASON_BYTES_MAX))] }
        .encode(&mut header);
    let reason = HandBack::decode(&header).unwrap().items[0].reason.clone();
    assert_eq!(reason, "ä".repeat(REASON_BYTES_MAX / 2));
    check_both(
        &CancelDelayed { queue: QueueKey(u64::MAX), offset: Offset(2), dry_run: true },
        &CancelDelayedAnswer { status: status(), was_pending: true, due_ms: -5 },
    );
}

#[test]
fn group_admin() {
    let summary = GroupSummary {
        name: "billing".into(),
        members: 1,
        queues: 2,
        lag: 3,
        generation: 4,
        active_ms: 5,
        expires_ms: 6,
    };
    check_both(&ListGroups {}, &ListGroupsAnswer { status: status(), groups: vec![summary; 2] });
    let queue = |topic, holder, committed| GroupQueueState {
        queue: QueueKey(1),
        topic,
        ordinal: 2,
        holder,
        grant_epoch: 3,
        lease_left_ms: 4,
        committed,
        committed_ms: 5,
        cached: 3,
        rate_milli: 6,
        start_offset: Offset(7),
        high_watermark: Offset(8),
    };
    let state = MemberState { member: member(1), address: "10.0.0.1:999".into(), seen_ms_ago: 5 };
    let answer = DescribeGroupAnswer {
        status: status(),
        generation: 9,
        members: vec![state],
        topics: names(&["orders", "bills"]),
        holders: vec![GrantHolder { client_id: String::new(), incarnation: 7 }],
        queues: vec![queue(0, Some(0), Some(Offset(0))), queue(1, None, None)],
    };
    check_both(&DescribeGroup { group: "billing".into() }, &answer);
    let (mut header, mut wrong) = (Vec::new(), answer);
    wrong.queues[0].topic = 2;
    wrong.encode(&mut header);
    assert!(DescribeGroupAnswer::decode(&header).is_err(), "a queue of a topic that is not named");
    check_both(&DeleteGroup { group: "billing".into() }, &DeleteGroupAnswer { status: status() });
    let outcome = ResetOutcome {
        queue: QueueKey(1),
        code: Code::Ok,
        before: Some(Offset(0)),
        after: Offset(2),
        grant_epoch: 3,
        start_offset: Offset(4),
        high_watermark: Offset(5),
    };
    let items = vec![(QueueKey(1), Offset(2)), (QueueKey(0), Offset(u64::MAX))];
    check_both(
        &ResetOffsets { group: "billing".into(), dry_run: true, items },
        &ResetOffsetsAnswer {
            status: status(),
            outcomes: vec![outcome, ResetOutcome { before: None, ..outcome }],
        },
    );
}

#[test]
fn settings_of_topics() {
    for retention in [TopicRetention::Broker, TopicRetention::Ms(0), TopicRetention::Ms(u64::MAX)] {
        check_both(
            &SetTopic { topic: "orders".into(), retention: Some(retention) },
            &SetTopicAnswer { status: status(), retention },
        );
    }
    check_both(
        &SetTopic { topic: "orders".into(), retention: None },
        &SetTopicAnswer { status: status(), retention: TopicRetention::Broker },
    );
}

#[test]
fn access_clients_and_counters() {
    for access in [None, Some(true), Some(false)] {
        check_both(
            &SetQueueAccess {
                topic: "orders".into(),
                ordinals: vec![0, 7],
                send: access,
                consume: access.map(|allowed| !allowed),
            },
            &SetQueueAccessAnswer { status: status(), topic: Some(topic()) },
        );
    }
    check_both(
        &RemoveQueues { topic: "orders".into(), map: names(&["a", "b"]), version: 3, force: true },
        &RemoveQueuesAnswer { status: status(), topic: None },
    );
    let client = ClientEntry {
        client_id: "worker".into(),
        incarnation: INCARNATION,
        address: "10.0.0.1:999".into(),
        shard: 3,
        seen_ms_ago: 4,
        producing: names(&["orders"]),
        group: "billing".into(),
        consuming: names(&["bills"]),
    };
    check_both(&ListClients {}, &ListClientsAnswer { status: status(), clients: vec![client; 2] });
    let counters = vec![Counter { name: "records_appended".into(), value: u64::MAX }];
    let answer = BrokerStatsAnswer { status: status(), broker: "broker-a".into(), uptime_ms: 5, counters };
    check_both(&BrokerStats {}, &answer);
}

/// Decided by what is there before the request: a queue, or a topic, may be named once.
#[test]
fn what_is_named_twice_is_refused() {
    fn refused<M: Message + Debug>(message: &M) {
        let mut header = Vec::new();
        message.encode(&mut header);
        assert!(matches!(M::decode(&header), Err(DecodeError::Field { .. })), "{message:?}");
    }
    let group = || "g".to_owned();
    let (queue, held) = (QueueKey(7), HeldQueue { queue: QueueKey(7), grant_epoch: 1 });
    let held = Some(vec![held; 2]);
    refused(&LeaseHeartbeat { group: group(), generation: 1, hash: 1, held, cached: vec![] });
    refused(&GrantQueues { group: group(), generation: 1, wait_ms_max: 0, queues: vec![queue; 2] });
    let item = ReleaseItem { queue, grant_epoch: 1, commit: None, tries: Tries::default() };
    refused(&ReleaseQueues { group: group(), items: vec![item; 2] });
    let item = HandBackItem {
        queue,
        offset: Offset(1),
        grant_epoch: 1,
        delay_ms: 0,
        reason: String::new(),
        tries: Tries::default(),
    };
    refused(&HandBack { group: group(), attempts_max: 0, items: vec![item; 2] });
    refused(&ResetOffsets { group: group(), dry_run: false, items: vec![(queue, Offset(1)); 2] });
    let subscription = Subscription { topic: "t".into(), tags: vec![], replace: false };
    let beat = |full| GroupHeartbeat { group: group(), generation: 0, hash: 0, full: Some(full) };
    let subscriptions = vec![subscription.clone(); 2];
    refused(&beat(Membership { subscriptions, ..Membership::default() }));
    let share = vec![ShareQueue { topic: 1, queue: 0 }];
    refused(&beat(Membership { subscriptions: vec![subscription], share, ..Membership::default() }));
    let mut fetch = fetch();
    fetch.group.clear();
    refused(&fetch);
}

#[test]
fn borrowed_readers_give_what_was_written() {
    let (mut header, sent) = (Vec::new(), produce());
    sent.encode(&mut header);
    let bytes = 100 + u32::MAX as usize;
    let view = ProduceRef::decode(&header, bytes).unwrap();
    assert_eq!(view.level(), sent.level);
    assert_eq!(view.items().collect::<Vec<_>>(), sent.items);
    let refused = DecodeError::Field { kind: "Produce", field: "item.bytes" };
    assert_eq!(ProduceRef::decode(&header, bytes - 1).unwrap_err(), refused);

    let (mut header, sent) = (Vec::new(), fetch());
    sent.encode(&mut header);
    let view = FetchRef::decode(&header).unwrap();
    assert_eq!((view.fetch_id(), view.wait_ms_max(), view.bytes_max()), (5, 1000, 1 << 20));
    let items: Vec<_> = view.items().collect();
    assert_eq!(items, sent.items);
    assert_eq!(view.tags(&items[0]).collect::<Vec<_>>(), [2, u32::MAX]);
    assert_eq!(view.tags(&items[1]).len(), 0);

    let (mut header, mut wrong) = (Vec::new(), fetch());
    wrong.items[0].tags_start = 2;
    wrong.encode(&mut header);
    let refused = DecodeError::Field { kind: "Fetch", field: "item.tags_count" };
    assert_eq!(FetchRef::decode(&header).unwrap_err(), refused);
}

#[test]
fn answers_of_borrowed_parts_are_the_same_bytes() {
    let (answer, mut whole, mut parts) = (produce_answer(), Vec::new(), Vec::new());
    put_frame(&mut whole, &answer, 1, 9, 0).unwrap();
    put_produce_answer(&mut parts, 9, &answer.status, &answer.outcomes).unwrap();
    assert_eq!(whole, parts);

    let (answer, mut whole, mut parts) = (fetch_answer(), Vec::new(), Vec::new());
    put_frame(&mut whole, &answer, 1, 9, 1234).unwrap();
    put_fetch_answer(&mut parts, 9, &answer.status, answer.fetch_id, &answer.outcomes, 1234).unwrap();
    assert_eq!(whole, parts);
}

/// The bytes that this and every later build sends and reads for one Produce request.
const GOLDEN_PRODUCE: &str = concat!(
    "3f00000001000a000d0c0b0a30000000", // frame head
    "100000000000000008000c0007000800",
    "08000000000000010400000001000000",
    "08070605040302010300000000000000",
    "616263", // payload
);

#[test]
fn golden_bytes_of_a_produce_frame() {
    let request = Produce {
        level: AckLevel::Durable,
        items: vec![ProduceItem { queue: QueueKey(0x0102_0304_0506_0708), bytes: 3 }],
    };
    let mut out = Vec::new();
    put_frame(&mut out, &request, 0, 0x0a0b_0c0d, 3).unwrap();
    out.extend_from_slice(b"abc");
    let golden: Vec<u8> = (0..GOLDEN_PRODUCE.len() / 2)
        .map(|at| u8::from_str_radix(&GOLDEN_PRODUCE[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    assert_eq!(out, golden);
    let frame = take_frame(&mut BytesMut::from(&out[..]), FRAME_BYTES_MAX).unwrap().unwrap();
    assert_eq!((frame.head.kind, frame.head.correlation), (10, 0x0a0b_0c0d));
    assert_eq!(Produce::decode(&frame.header), Ok(request));
    assert_eq!(&frame.payload[..], b"abc");
}

#[test]
fn lists_and_names_over_their_limits_are_refused() {
    fn refused<M: Message + Debug>(message: &M, field: &str, limit: usize) {
        let mut header = Vec::new();
        message.encode(&mut header);
        match M::decode(&header) {
            Err(DecodeError::TooLong { field: found, length, limit: told, .. }) => {
                assert_eq!((found, length, told), (field, limit + 1, limit));
            }
            other => panic!("{other:?}"),
        }
    }
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    refused(&DeleteTopic { topic: long.clone() }, "topic", NAME_BYTES_MAX);
    refused(&GetCluster { cluster: long.clone() }, "cluster", NAME_BYTES_MAX);
    let producing = vec!["t".to_owned(); TOPICS_MAX + 1];
    refused(&Heartbeat { producing, group: String::new(), consuming: vec![] }, "producing", TOPICS_MAX);
    let items = vec![ProduceItem { queue: QueueKey(1), bytes: 1 }; PRODUCE_ITEMS_MAX + 1];
    refused(&Produce { level: AckLevel::Durable, items }, "items", PRODUCE_ITEMS_MAX);
    let items = vec![FetchItem { tags_count: 0, tags_start: 0, ..fetch().items[0] }; FETCH_ITEMS_MAX + 1];
    refused(&Fetch { items, ..fetch() }, "items", FETCH_ITEMS_MAX);
    let queues = vec![QueueKey(1); OFFSET_ITEMS_MAX + 1];
    refused(&FetchOffsets { group: "g".into(), queues }, "queues", OFFSET_ITEMS_MAX);

    let mut header = Vec::new();
    DeleteTopic { topic: String::new() }.encode(&mut header);
    let refused = DecodeError::Field { kind: "DeleteTopic", field: "topic" };
    assert_eq!(DeleteTopic::decode(&header), Err(refused));
}

#[test]
fn a_long_detail_is_cut_at_a_character() {
    let mut header = Vec::new();
    HeartbeatAnswer { status: Status::new(Code::Internal, "ä".repeat(DETAIL_BYTES_MAX)) }.encode(&mut header);
    let detail = HeartbeatAnswer::decode(&header).unwrap().status.detail;
    assert_eq!(detail, "ä".repeat(DETAIL_BYTES_MAX / 2));
}

/// A header that names one string a million times is refused by its apparent size, before it is read.
#[test]
fn a_header_that_is_larger_than_it_looks_is_refused() {
    let mut list = vec!["x".repeat(NAME_BYTES_MAX); TOPICS_MAX];
    let mut header = Vec::new();
    Heartbeat { producing: list.clone(), group: String::new(), consuming: vec![] }.encode(&mut header);
    assert!(header.len() < 100_000, "each distinct name is written once: {}", header.len());
    assert_eq!(Heartbeat::decode(&header).unwrap().producing, list);

    list = vec!["y".repeat(1 << 20); 100];
    let mut header = Vec::new();
    Heartbeat { producing: list, group: String::new(), consuming: vec![] }.encode(&mut header);
    let error = Heartbeat::decode(&header).unwrap_err();
    assert!(
        matches!(&error, DecodeError::Malformed { reason, .. } if reason.contains("pparent")),
        "{error:?}"
    );
}

#[test]
fn numbers_of_kinds_and_codes() {
    assert!(Kind::ALL.is_sorted_by(|a, b| (*a as u16) < (*b as u16)));
    for kind in Kind::ALL {
        assert_eq!(Kind::from_number(*kind as u16), Some(*kind));
    }
    assert_eq!(Kind::from_number(0), None);
    assert_eq!(Kind::from_number(u16::MAX), None);
    for (place, code) in Code::ALL.iter().enumerate() {
        assert_eq!(*code as usize, place);
        assert_eq!(Code::from_number(*code as u16), *code);
        assert!(!code.text().is_empty());
    }
    assert_eq!(Code::from_number(u16::MAX), Code::Internal);
    assert_eq!(FRAME_HEADER_LEN, 16);
}

#[test]
fn a_commit_names_a_queue_once() {
    let item = CommitItem { queue: QueueKey(7), offset: Offset(50), grant_epoch: 0, tries: Tries::default() };
    let twice =
        CommitOffsets { group: "g".into(), items: vec![item, CommitItem { offset: Offset(40), ..item }] };
    let mut header = Vec::new();
    twice.encode(&mut header);
    assert!(CommitOffsets::decode(&header).is_err());
}
