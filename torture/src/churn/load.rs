//! What the members work on: producers that note what was acknowledged; waiting until all is handled; the dead letters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use equeue_client::{
    Client, Codec, ConsumerOptions, Message, Outcomes, ProducerOptions, StartAt, Subscription,
};
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use super::{GROUPS, key_of};

/// Number of producers.
const PRODUCERS: u64 = 4;
/// Portions a second in which they send.
const PORTIONS: u64 = 10;
/// How long the last messages may take to be acknowledged.
const FINISH_LIMIT: Duration = Duration::from_mins(2);

/// The producers.
pub(super) struct Load {
    tasks: JoinSet<()>,
    told: Arc<Told>,
}

/// What producers were told.
#[derive(Debug, Default)]
struct Told {
    acknowledged: Mutex<Vec<u64>>,
    /// Numbers sent are less.
    sent: AtomicU64,
}

/// What was sent.
#[derive(Debug)]
pub(super) struct Sent {
    /// Numbers sent are less.
    pub(super) below: u64,
    /// Numbers stored for certain.
    pub(super) acknowledged: Vec<u64>,
}

impl Load {
    /// Sends numbers from 0 on, until `stop` or until there are `messages`.
    pub(super) fn start(
        client: &Client,
        topics: &[String],
        rate: u32,
        messages: u64,
        stop: &Receiver<bool>,
    ) -> Self {
        let told = Arc::<Told>::default();
        let mut tasks = JoinSet::new();
        for index in 0..PRODUCERS {
            let producer = Producer {
                client: client.clone(),
                topics: topics.to_vec(),
                portion: (u64::from(rate) / PRODUCERS / PORTIONS).max(1),
                messages,
                told: Arc::clone(&told),
            };
            tasks.spawn(producer.run(index, stop.clone()));
        }
        Self { tasks, told }
    }

    /// Whether everything was sent and answered.
    pub(super) fn is_done(&mut self) -> bool {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.is_empty()
    }

    /// Waits for the last answers.
    pub(super) async fn finish(mut self) -> anyhow::Result<Sent> {
        let ending = async { while self.tasks.join_next().await.is_some() {} };
        timeout(FINISH_LIMIT, ending).await.context("the producers do not settle")?;
        let below = self.told.sent.load(Ordering::Relaxed);
        let mut acknowledged = self.told.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Sent { below, acknowledged: std::mem::take(&mut acknowledged) })
    }
}

struct Producer {
    client: Client,
    topics: Vec<String>,
    portion: u64,
    messages: u64,
    told: Arc<Told>,
}

impl Producer {
    /// Sends numbers whose keys are this producer's own.
    async fn run(self, index: u64, stop: Receiver<bool>) {
        let told = Arc::clone(&self.told);
        let on_delivery = move |outcomes: Outcomes<'_>| {
            if outcomes.error().is_none() {
                told.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).extend(outcomes.tokens());
            }
        };
        let producer = self.client.producer(ProducerOptions {
            codec: Codec::None,
            send_timeout: Duration::from_mins(1),
            on_delivery: Some(Arc::new(on_delivery)),
            ..ProducerOptions::default()
        });
        let mut tick = interval(Duration::from_millis(1000 / PORTIONS));
        let mut number = index;
        while !*stop.borrow() && number < self.messages {
            tick.tick().await;
            for _ in 0..self.portion {
                if number >= self.messages {
                    break;
                }
                let (key, body) = (key_of(number).to_le_bytes(), number.to_le_bytes());
                // Messages of a key stay in one topic: their order is that of one queue.
                let topic = usize::try_from(key_of(number)).unwrap_or(0) % self.topics.len().max(1);
                let Some(topic) = self.topics.get(topic) else { return };
                self.told.sent.fetch_max(number + 1, Ordering::Relaxed);
                let _ = producer.enqueue_with(&Message::new(topic, &body).key(&key), number).await;
                number += PRODUCERS;
            }
        }
        producer.flush().await;
        producer.close().await;
    }
}

/// Waits until both groups have nothing left, their retry queues included.
pub(super) async fn settle(client: &Client, topics: &[String]) {
    let mut quiet = 0;
    while quiet < 4 {
        sleep(Duration::from_millis(500)).await;
        quiet = if lag(client, topics).await == Some(0) { quiet + 1 } else { 0 };
    }
}

/// Messages not committed by a group; `None`: not every broker tells.
async fn lag(client: &Client, topics: &[String]) -> Option<u64> {
    let mut lag = 0;
    for group in GROUPS {
        for answer in client.admin().describe_group(group).await.ok()? {
            let answer = answer.result.ok()?;
            let retry = equeue_net::hidden::retry_topic(group);
            for queue in answer.queues {
                let topic = answer.topics.get(usize::from(queue.topic))?;
                if *topic == retry || topics.contains(topic) {
                    lag += queue.high_watermark.0 - queue.committed.map_or(0, |committed| committed.0);
                }
            }
        }
    }
    Some(lag)
}

/// Numbers of the dead letters, and how often each was handed back.
pub(super) async fn dead_letters(client: &Client) -> anyhow::Result<BTreeMap<u64, Vec<u32>>> {
    let topic = equeue_net::hidden::dead_letter_topic(GROUPS[0]);
    let mut dead: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let options = ConsumerOptions {
        group: "churn-undertaker".to_owned(),
        topics: vec![Subscription::all(topic)],
        start: StartAt::First,
        ..ConsumerOptions::default()
    };
    // Without a dead letter there is no such topic.
    let Ok(mut consumer) = client.consumer(options).await else { return Ok(dead) };
    loop {
        let letters = consumer.pull(1000, Duration::from_secs(3)).await.context("reading dead letters")?;
        if letters.is_empty() {
            break;
        }
        for letter in letters {
            let number =
                letter.body.as_deref().and_then(|body| Some(u64::from_le_bytes(*body.first_chunk()?)));
            let number = number.context("a dead letter that was not sent")?;
            dead.entry(number).or_default().push(letter.attempt() - 1);
        }
    }
    let _ = consumer.close().await;
    Ok(dead)
}
