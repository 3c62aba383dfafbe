//! A member: a process of its own, so that it can be killed and stopped, in two groups at once. One group handles in
//! parallel and fails now and then, the other one keeps the order.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use equeue_client::{
    AssignmentEvent, AssignmentListener, Client, ConsumerOptions, Context, HandlerError, PushConsumer,
    PushOptions, Received, StartAt, Subscription,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::events::{Diary, Event, What, now_us};
use super::{ATTEMPTS_MAX, Fate, GROUPS, IN_ORDER, fate, topic_index, work_ms};

/// What a member is told.
#[derive(Args, Clone, Debug)]
pub(crate) struct MemberArgs {
    /// Nameserver
    #[arg(long)]
    pub(crate) nameserver: String,
    /// Name
    #[arg(long)]
    pub(crate) name: String,
    /// Topics
    #[arg(long, value_delimiter = ',')]
    pub(crate) topics: Vec<String>,
    /// Where to write what happens
    #[arg(long)]
    pub(crate) diary: PathBuf,
}

/// Consumes until SIGTERM, then stops in order.
pub(crate) async fn run(args: &MemberArgs) -> anyhow::Result<()> {
    let mut stop = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let diary = Arc::new(Diary::open(&args.diary)?);
    let topics = Arc::new(args.topics.clone());
    let client = Client::builder()
        .nameservers([args.nameserver.clone()])
        .client_id(args.name.clone())
        .request_timeout(Duration::from_secs(5))
        .connect()
        .await?;
    let mut consumers = Vec::new();
    let joining = async {
        for group in [0, 1] {
            consumers.push(join(&client, group, &topics, &diary).await?);
        }
        Ok::<(), anyhow::Error>(())
    };
    // What was joined so far is left in order.
    tokio::select! {
        joined = joining => {
            joined?;
            stop.recv().await;
        }
        _ = stop.recv() => {}
    }
    for stopped in futures_of(consumers).await {
        stopped.context("a consumer does not stop in order")?;
    }
    client.close().await;
    Ok(())
}

async fn futures_of(consumers: Vec<PushConsumer>) -> Vec<Result<(), equeue_client::ClientError>> {
    let mut tasks = tokio::task::JoinSet::new();
    for consumer in consumers {
        tasks.spawn(consumer.stop());
    }
    tasks.join_all().await
}

async fn join(
    client: &Client,
    group: u8,
    topics: &Arc<Vec<String>>,
    diary: &Arc<Diary>,
) -> anyhow::Result<PushConsumer> {
    let listener = {
        let (diary, topics) = (Arc::clone(diary), Arc::clone(topics));
        AssignmentListener::new(move |event| {
            let (what, topic, queue) = match event {
                AssignmentEvent::Assigned { topic, queue, .. } => (What::Assigned, topic, *queue),
                AssignmentEvent::Released { topic, queue } | AssignmentEvent::Lost { topic, queue } => {
                    (What::GivenUp, topic, *queue)
                }
                _ => return,
            };
            if let Some(topic) = topic_index(&topics, topic) {
                diary.note(&Event {
                    at_us: now_us(),
                    what,
                    group,
                    attempt: 0,
                    direct: true,
                    topic,
                    queue,
                    offset: 0,
                    number: 0,
                });
            }
        })
    };
    let name = GROUPS.get(usize::from(group)).copied().context("there are two groups")?;
    let options = ConsumerOptions {
        group: name.to_owned(),
        topics: topics.iter().map(Subscription::all).collect(),
        start: StartAt::First,
        commit_interval: Some(Duration::from_millis(500)),
        wait_max: Duration::from_secs(5),
        on_assignment: Some(listener),
        ..ConsumerOptions::default()
    };
    let push = PushOptions {
        attempts_max: ATTEMPTS_MAX.into(),
        retry_steps: vec![Duration::from_millis(300)],
        parallel: 4,
        ..if group == IN_ORDER { PushOptions::sequential() } else { PushOptions::default() }
    };
    let (diary, topics) = (Arc::clone(diary), Arc::clone(topics));
    let handler = move |message: Received, context: Context| {
        let (diary, topics) = (Arc::clone(&diary), Arc::clone(&topics));
        async move { handle(&diary, &topics, group, &message, &context).await }
    };
    Ok(client.push_consumer(options, push, handler).await?)
}

async fn handle(
    diary: &Diary,
    topics: &[String],
    group: u8,
    message: &Received,
    context: &Context,
) -> Result<(), HandlerError> {
    let number = message.body.as_deref().and_then(|body| Some(u64::from_le_bytes(*body.first_chunk()?)));
    let (Some(number), Some(topic)) = (number, topic_index(topics, message.sent_to())) else {
        return Err(HandlerError::skip("not a message of this run"));
    };
    if let Some(ms) = work_ms(number) {
        sleep(Duration::from_millis(ms)).await;
    }
    // One record, written when the work is done and before anything comes of it.
    let event = |what| Event {
        at_us: now_us(),
        what,
        group,
        attempt: u8::try_from(context.attempt()).unwrap_or(u8::MAX),
        direct: message.sent_to() == &*message.topic,
        topic,
        queue: message.queue,
        offset: message.offset.0,
        number,
    };
    let fails = group != IN_ORDER
        && match fate(number) {
            Fate::Handled => false,
            Fate::Retried(works_at) => context.attempt() < u32::from(works_at),
            Fate::Dead => true,
        };
    if fails {
        diary.note(&event(What::Failed));
        return Err(HandlerError::retry("as it was told"));
    }
    diary.note(&event(What::Handled));
    Ok(())
}
