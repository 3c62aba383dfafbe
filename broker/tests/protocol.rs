//! Whatever a peer sends, it gets an error or is cut off, and the broker lives.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it would panic"
)]

mod common;

use std::io::Write as _;

use common::{Client, batch, start, stop};
use equeue_net::Code;
use equeue_net::api::{
    GetRoutes, Heartbeat, HeartbeatAnswer, Hello, ListTopics, ListTopicsAnswer, Message as _, Produce,
    ProduceAnswer,
};
use equeue_net::frame::{FLAG_ANSWER, FLAG_ONE_WAY, put_frame};

/// A frame with everything right but what `spoil` does.
fn frame(spoil: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, &ListTopics {}, 0, 9, 0).unwrap();
    spoil(&mut out);
    out
}

#[test]
fn bytes_that_are_no_frame_close_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let spoiled = [
        vec![0xff; 64],
        vec![0; 64],
        frame(|out| out[4] = 99),                                          // version
        frame(|out| out[5] = 0xf0),                                        // flags
        frame(|out| out[12..16].copy_from_slice(&u32::MAX.to_le_bytes())), // header length
        frame(|out| out[0..4].copy_from_slice(&(64_u32 << 20).to_le_bytes())), // larger than the limit
        frame(|out| out[5] = FLAG_ANSWER),
        frame(|out| out[5] = FLAG_ONE_WAY),
    ];
    for (number, bytes) in spoiled.iter().enumerate() {
        let mut client = Client::connect(broker.address());
        client.stream.write_all(bytes).unwrap();
        assert!(client.receive().is_none(), "case {number} must be cut off");
    }
    let errors = &broker.broker().stats[0].protocol_errors;
    common::until("all of them to be counted", || errors.get() == spoiled.len() as u64);
    let mut client = Client::connect(broker.address());
    assert_eq!(client.request(&ListTopics {}).status.code, Code::Ok);
    stop(broker);
}

#[test]
fn a_wrong_preamble_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    for bytes in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0; 16], b"EQUE\xff\0\0\0\0\0\0\0\0\0\0\0"] {
        let mut client = Client::dial(broker.address(), None);
        drop(std::mem::replace(&mut client.stream, std::net::TcpStream::connect(broker.address()).unwrap()));
        client.stream.write_all(bytes).unwrap();
        assert!(client.receive().is_none());
    }
    Client::connect(broker.address());
    stop(broker);
}

#[test]
fn a_frame_that_is_cut_short_hurts_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let whole = frame(|_| {});
    for len in 1..whole.len() {
        let mut client = Client::connect(broker.address());
        client.stream.write_all(&whole[..len]).unwrap();
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(client.receive().is_none(), "{len}");
    }
    Client::connect(broker.address());
    stop(broker);
}

#[test]
fn an_unknown_kind_is_unsupported_and_the_connection_stays() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    client.stream.write_all(&frame(|out| out[6..8].copy_from_slice(&9999_u16.to_le_bytes()))).unwrap();
    let answer = client.receive().unwrap();
    assert_eq!((answer.head.kind, answer.head.correlation), (9999, 9));
    assert_eq!(HeartbeatAnswer::decode(&answer.header).unwrap().status.code, Code::Unsupported);
    let correlation = client.send(&GetRoutes { cluster: String::new(), topics: Vec::new() }, 0, &[]);
    let answer = client.answer::<GetRoutes>(correlation);
    assert_eq!(answer.status.code, Code::Unsupported);
    assert_eq!(client.request(&ListTopics {}).status.code, Code::Ok);
    stop(broker);
}

#[test]
fn a_malformed_header_is_invalid_and_the_connection_stays() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    client.stream.write_all(&frame(|out| out[16..].fill(0xee))).unwrap();
    let answer = client.receive().unwrap();
    assert_eq!(ListTopicsAnswer::decode(&answer.header).unwrap().status.code, Code::Invalid);
    // The items do not add up to the payload.
    let queue = client.create_queue("t").key;
    let payload = batch(&[b"x"]);
    let items = vec![equeue_net::api::ProduceItem { queue, bytes: payload.len() as u32 + 1 }];
    let request = Produce { level: equeue_net::api::AckLevel::Durable, items };
    client.send(&request, 0, &payload);
    let answer = client.receive().unwrap();
    assert_eq!(ProduceAnswer::decode(&answer.header).unwrap().status.code, Code::Invalid);
    client.produce_ok(&[(queue, payload)]);
    stop(broker);
}

#[test]
fn hello_comes_first_and_its_version_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = common::config(dir.path(), 1);
    config.timers.hello_ms = 300;
    let broker = common::start_with(config);
    let mut client = Client::dial(broker.address(), None);
    let answer = client.request(&ListTopics {});
    assert_eq!(answer.status.code, Code::Unauthenticated);
    let hello =
        |low, high| Hello { version_min: low, version_max: high, client_id: "t".into(), incarnation: 1 };
    assert_eq!(client.request(&hello(7, 9)).status.code, Code::Unsupported);
    // It is how nobody is written where grants are stored.
    assert_eq!(client.request(&Hello { incarnation: 0, ..hello(1, 9) }).status.code, Code::Invalid);
    assert_eq!(client.request(&ListTopics {}).status.code, Code::Unauthenticated);
    assert_eq!(client.request(&hello(1, 9)).status.code, Code::Ok);
    assert_eq!(client.request(&ListTopics {}).status.code, Code::Ok);
    let mut silent = Client::dial(broker.address(), None);
    assert!(silent.receive().is_none(), "who says nothing is cut off");
    stop(broker);
}

#[test]
fn heartbeats_are_remembered_until_the_connection_closes() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let beat = Heartbeat { producing: vec!["t".into()], group: "g".into(), consuming: vec!["t".into()] };
    assert_eq!(client.request(&beat).status.code, Code::Ok);
    let stats = &broker.broker().stats[0];
    common::until("the producer to be counted", || stats.producers.get() == 1 && stats.consumers.get() == 1);
    drop(client);
    common::until("the producer to be forgotten", || {
        stats.producers.get() == 0 && stats.consumers.get() == 0
    });
    common::until("the connection to be forgotten", || stats.connections.get() == 0);
    stop(broker);
}
