//! Fresh consumers: one that reads every queue from its start to its end for the oracle, one that shows that a new group
//! finds everything it needs.

use std::time::Duration;

use anyhow::Context as _;
use equeue_client::{Client, Consumer, ConsumerOptions, Received, StartAt, Subscription};
use equeue_net::api::OffsetAt;
use tokio::time::Instant;

use super::consumers::seen;
use super::{Records, Shared};
use crate::oracle::reading::Reading;
use crate::oracle::violation::Class;

/// How long nothing may come before the reading is given up.
const STALL_LIMIT: Duration = Duration::from_secs(20);
/// How long a freshly started broker may take until it answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Pause after a failed call.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Reads everything with a group of this name, which must be new. Nothing may be sent meanwhile.
///
/// # Errors
/// When it cannot be read to the end: that is noted as a violation too, and nothing is said about lost messages.
pub(crate) async fn read_all(client: &Client, shared: &Shared, group: &str) -> anyhow::Result<u64> {
    let mut readings: Vec<Reading> = {
        let records = shared.records();
        (0..shared.shape.queue_count()).map(|queue| Reading::begin(&records.evidence, queue)).collect()
    };
    let (consumer, read) = read_to_ends(client, shared, group, |records, queue, message| {
        if let Some(reading) = readings.get_mut(usize::from(queue)) {
            reading.record(&mut records.evidence, message.offset.0, &seen(message));
        }
    })
    .await?;
    // It commits nothing: that it closes well is not what is tested here.
    let _ = tokio::time::timeout(ANSWER_LIMIT, consumer.close()).await;
    let mut records = shared.records();
    for reading in readings {
        reading.finish(&mut records.evidence);
    }
    Ok(read)
}

/// A new group finds its members, gets its queues, reads them to their ends and commits, whatever the state of the disk.
///
/// # Errors
/// When it does not: that is noted as a violation too.
pub(crate) async fn join_and_commit(client: &Client, shared: &Shared, group: &str) -> anyhow::Result<()> {
    let (mut consumer, _) = read_to_ends(client, shared, group, |_, _, _| {}).await?;
    let begun = Instant::now();
    loop {
        let reason = match tokio::time::timeout(ANSWER_LIMIT, consumer.commit()).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if begun.elapsed() > ANSWER_LIMIT {
            shared.violation(Class::Stuck, || {
                format!("group {group} cannot commit for {ANSWER_LIMIT:?}: {reason}")
            });
            anyhow::bail!("a new group cannot commit: {reason}");
        }
        tokio::time::sleep(BACK_OFF).await;
    }
    if tokio::time::timeout(ANSWER_LIMIT, consumer.close()).await.is_err() {
        shared.violation(Class::Stuck, || {
            format!("the member of group {group} does not close within {ANSWER_LIMIT:?}")
        });
    }
    Ok(())
}

/// Lets a new group read every queue to where it ends now; gives its consumer and the number of messages.
async fn read_to_ends(
    client: &Client,
    shared: &Shared,
    group: &str,
    mut each: impl FnMut(&mut Records, u16, &Received),
) -> anyhow::Result<(Consumer, u64)> {
    let ends = ends(client, shared).await?;
    let options = ConsumerOptions {
        group: group.to_owned(),
        topics: shared.shape.topics.iter().map(Subscription::all).collect(),
        start: StartAt::First,
        commit_interval: None,
        wait_max: Duration::from_secs(1),
        ..ConsumerOptions::default()
    };
    let mut consumer = client.consumer(options).await.context("cannot make a fresh consumer")?;
    let mut next = vec![0; ends.len()];
    let (mut read, mut last) = (0, Instant::now());
    while next.iter().zip(&ends).any(|(next, end)| next < end) {
        let messages = consumer.pull(10_000, Duration::from_millis(500)).await.unwrap_or_default();
        if messages.is_empty() {
            if last.elapsed() > STALL_LIMIT {
                return Err(stalled(shared, group, &next, &ends));
            }
            continue;
        }
        last = Instant::now();
        read += messages.len() as u64;
        let mut records = shared.records();
        for message in &messages {
            match shared.shape.index(&message.topic, message.queue) {
                Some(queue) => {
                    if let Some(next) = next.get_mut(usize::from(queue)) {
                        *next = message.offset.0.saturating_add(1).max(*next);
                    }
                    each(&mut records, queue, message);
                }
                None => records.evidence.findings().note(Class::Phantom, || {
                    format!(
                        "a message of queue {} of topic {}, which is not there",
                        message.queue, message.topic
                    )
                }),
            }
        }
    }
    Ok((consumer, read))
}

fn stalled(shared: &Shared, group: &str, next: &[u64], ends: &[u64]) -> anyhow::Error {
    let standing: Vec<_> = next
        .iter()
        .zip(ends)
        .enumerate()
        .filter(|(_, (next, end))| next < end)
        .map(|(queue, (next, end))| format!("#{queue} at {next} of {end}"))
        .collect();
    shared.violation(Class::Stuck, || {
        format!("the new group {group} gets nothing for {STALL_LIMIT:?}: {}", standing.join(", "))
    });
    anyhow::anyhow!("the queues cannot be read to their ends")
}

/// The end of every queue; asks until each broker answers.
pub(crate) async fn ends(client: &Client, shared: &Shared) -> anyhow::Result<Vec<u64>> {
    let began = Instant::now();
    loop {
        match ask_for_ends(client, shared).await {
            Ok(ends) => return Ok(ends),
            Err(reason) if began.elapsed() > ANSWER_LIMIT => {
                shared.violation(Class::Stuck, || {
                    format!("no ends of the queues for {ANSWER_LIMIT:?}: {reason}")
                });
                anyhow::bail!("the broker does not tell where its queues end: {reason}");
            }
            Err(_) => tokio::time::sleep(BACK_OFF).await,
        }
    }
}

async fn ask_for_ends(client: &Client, shared: &Shared) -> Result<Vec<u64>, String> {
    let mut ends = vec![None; usize::from(shared.shape.queue_count())];
    for topic in &shared.shape.topics {
        let answers =
            client.admin().list_offsets(topic, OffsetAt::Last).await.map_err(|error| error.to_string())?;
        for answer in answers {
            let offset = answer.result.map_err(|error| error.to_string())?;
            let queue = shared.shape.index(topic, answer.queue).map(usize::from);
            if let Some(end) = queue.and_then(|queue| ends.get_mut(queue)) {
                *end = Some(offset.0);
            }
        }
    }
    let known: Option<Vec<u64>> = ends.into_iter().collect();
    known.ok_or_else(|| "a queue is missing in the answers".to_owned())
}

/// Compares what the broker says is committed with what the groups were told (C7).
pub(crate) async fn check_commits(client: &Client, shared: &Shared) -> anyhow::Result<()> {
    for (index, group) in super::GROUPS.iter().enumerate() {
        let floors = {
            let mut records = shared.records();
            let found = records.evidence.group(index);
            found.map(|(group, _)| group.floors()).unwrap_or_default()
        };
        let committed = committed(client, shared, group).await?;
        // A commit may be seen a moment before the task that pulled its messages has written them down.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut records = shared.records();
        let Some((group, findings)) = records.evidence.group(index) else { continue };
        for ((queue, found), floor) in (0..).zip(committed).zip(floors) {
            group.observed(queue, found, floor, findings);
        }
    }
    Ok(())
}

async fn committed(client: &Client, shared: &Shared, group: &str) -> anyhow::Result<Vec<Option<u64>>> {
    let began = Instant::now();
    loop {
        match ask_for_committed(client, shared, group).await {
            Ok(committed) => return Ok(committed),
            Err(reason) if began.elapsed() > ANSWER_LIMIT => {
                shared.violation(Class::Stuck, || {
                    format!("no committed offsets of group {group} for {ANSWER_LIMIT:?}: {reason}")
                });
                anyhow::bail!("the broker does not tell what is committed: {reason}");
            }
            Err(_) => tokio::time::sleep(BACK_OFF).await,
        }
    }
}

async fn ask_for_committed(
    client: &Client,
    shared: &Shared,
    group: &str,
) -> Result<Vec<Option<u64>>, String> {
    let mut committed = vec![None; usize::from(shared.shape.queue_count())];
    for topic in &shared.shape.topics {
        let answers = client.admin().fetch_offsets(group, topic).await.map_err(|error| error.to_string())?;
        for answer in answers {
            let offset = answer.result.map_err(|error| error.to_string())?;
            let queue = shared.shape.index(topic, answer.queue).map(usize::from);
            if let Some(slot) = queue.and_then(|queue| committed.get_mut(queue)) {
                *slot = offset.map(|offset| offset.0);
            }
        }
    }
    Ok(committed)
}
