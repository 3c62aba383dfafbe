//! How fast messages are taken, without a network: the application's part and the sender's part (freezing with its
//! checksum, settling, memory used again) on one core. Run by hand:
//! `cargo test --release -p equeue-client --lib -- --ignored --nocapture rate`.

use std::time::{Duration, Instant};

use equeue_net::api::{QueueEntry, TopicSnapshot};
use equeue_record::{Offset, QueueKey};

use super::completion::BatchReceipt;
use super::queue::TakePlan;
use super::*;
use crate::Client;

const MESSAGES: u32 = 2_000_000;
const BODY: usize = 1024;
const QUEUES: u32 = 4;

fn route() -> TopicSnapshot {
    TopicSnapshot {
        name: "rate".to_owned(),
        version: 1,
        map: vec!["nobody".to_owned(); QUEUES as usize],
        queues: (0..QUEUES)
            .map(|ordinal| QueueEntry {
                ordinal,
                key: QueueKey(u64::from(ordinal) + 1),
                shard: 0,
                writable: true,
                readable: true,
            })
            .collect(),
    }
}

/// Plays the sender for every queue.
fn settle(shared: &Arc<Shared>) {
    let plan = TakePlan { partial: true, linger: Duration::ZERO, in_flight_max: 5 };
    for queue in shared.queues() {
        while let Ok(Some(batch)) = queue.next(plan, Instant::now()) {
            let receipt = BatchReceipt {
                broker: "nobody".into(),
                queue: queue.ordinal,
                queue_key: QueueKey(1),
                base_offset: Offset(0),
                append_time_ms: 0,
                level: AckLevel::Durable,
                duplicate: false,
                cluster_check: 0,
            };
            drop(batch.bytes);
            let settled = queue.outbox().stored(batch.number).expect("it was sent");
            shared.tell(&settled.audience.expect("in time"), Ok(receipt));
            shared.reuse(settled.bytes);
        }
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn rate_of_taking_messages() {
    let client = Client::builder().nameservers(["127.0.0.1:1"]).connect().await.expect("options are right");
    for (name, key) in [("keyed", Some(&b"customer-17"[..])), ("un-keyed", None)] {
        let options = ProducerOptions { on_delivery: Some(Arc::new(|_| {})), ..ProducerOptions::default() };
        let producer = client.producer(options);
        let shared = producer.shared();
        shared.client.routes.learn("nobody", &route());
        let topic = Arc::clone(shared.client.routes.load().topics.get("rate").expect("learned"));
        shared.adopt_topic(&topic);
        let body = vec![7; BODY];
        let message = Message { key, ..Message::new("rate", &body) };
        for form in ["delivery", "token"] {
            let begin = Instant::now();
            let mut settling = Duration::ZERO;
            for number in 0..MESSAGES {
                let taken = match form {
                    "delivery" => producer.try_enqueue(&message).map(drop),
                    _ => producer.try_enqueue_with(&message, u64::from(number)),
                };
                if taken.is_err() {
                    let pause = Instant::now();
                    settle(shared);
                    settling += pause.elapsed();
                }
            }
            let taking = begin.elapsed().saturating_sub(settling);
            println!(
                "{name}, {form}: {:.0} ns to take, {:.0} ns to freeze and settle a message; {:.2} million/s",
                taking.as_secs_f64() * 1e9 / f64::from(MESSAGES),
                settling.as_secs_f64() * 1e9 / f64::from(MESSAGES),
                f64::from(MESSAGES) / 1e6 / begin.elapsed().as_secs_f64(),
            );
            settle(shared);
        }
    }
}
