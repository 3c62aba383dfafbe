//! Queues that fall to another member while handlers are at work: these are waited for, then cancelled, then given up.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the answer")]

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use common::{Cluster, PATIENCE, committed_by_queue, create, ready, until};
use equeue_client::{
    AssignmentEvent, AssignmentListener, Client, ConsumerOptions, Context, HandlerError, Message,
    ProducerOptions, PushConsumer, PushOptions, Received, Subscription,
};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// Messages of each of the two queues.
const EACH: usize = 3;

/// Queue and offset of what handlers were given.
type Seen = Arc<Mutex<Vec<(u32, u64)>>>;
type Events = Arc<Mutex<Vec<AssignmentEvent>>>;

/// A queue that a handler is at work with, until it ends or is cancelled.
struct AtWork(Arc<Mutex<BTreeSet<u32>>>, u32);

impl AtWork {
    fn begin(queues: &Arc<Mutex<BTreeSet<u32>>>, queue: u32) -> Self {
        queues.lock().unwrap().insert(queue);
        Self(Arc::clone(queues), queue)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.lock().unwrap().remove(&self.1);
    }
}

fn options(topic: &str) -> (ConsumerOptions, Events) {
    let events = Events::default();
    let heard = Arc::clone(&events);
    let options = ConsumerOptions {
        group: "g".to_owned(),
        topics: vec![Subscription::all(topic)],
        commit_interval: Some(Duration::from_millis(100)),
        on_assignment: Some(AssignmentListener::new(move |event| heard.lock().unwrap().push(event.clone()))),
        ..ConsumerOptions::default()
    };
    (options, events)
}

async fn start<H, F>(client: &Client, options: ConsumerOptions, handler: H) -> PushConsumer
where
    H: Fn(Received, Context) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let push = PushOptions { parallel: 2, ..PushOptions::sequential() };
    let starting = client.push_consumer(options, push, handler);
    timeout(PATIENCE, starting).await.expect("in time").expect("the consumer starts")
}

/// Another member, which handles at once what it is given.
async fn another(client: &Client, topic: &str) -> (PushConsumer, Seen) {
    let seen = Seen::default();
    let told = Arc::clone(&seen);
    let handler = move |message: Received, _: Context| {
        told.lock().unwrap().push((message.queue, message.offset.0));
        std::future::ready(Ok(()))
    };
    (start(client, options(topic).0, handler).await, seen)
}

/// A topic with two queues and messages in both.
async fn backlog(client: &Client, topic: &str) {
    create(client, topic, 2).await;
    let producer = client.producer(ProducerOptions::default());
    for _ in 0..EACH {
        for queue in [0, 1] {
            producer.send(&Message::new(topic, b"x").queue(queue)).await.expect("stored");
        }
    }
}

fn all_of(queue: u32) -> Vec<(u32, u64)> {
    (0..).take(EACH).map(|offset| (queue, offset)).collect()
}

/// What happened to the queues that were given away, and that it was one of the two.
fn moved(events: &Events) -> (u32, Vec<&'static str>) {
    let mut queues = BTreeSet::new();
    let mut what = Vec::new();
    for event in events.lock().unwrap().iter() {
        let (queue, name) = match event {
            AssignmentEvent::Draining { queue, .. } => (queue, "draining"),
            AssignmentEvent::Released { queue, .. } => (queue, "released"),
            AssignmentEvent::Lost { queue, .. } => (queue, "lost"),
            _ => continue,
        };
        queues.insert(*queue);
        what.push(name);
    }
    assert_eq!(queues.len(), 1, "{events:?}");
    (queues.into_iter().next().unwrap_or_default(), what)
}

async fn stop(members: impl IntoIterator<Item = PushConsumer>) {
    for member in members {
        timeout(PATIENCE, member.stop()).await.expect("in time").expect("it commits");
    }
}

#[tokio::test]
async fn a_hand_over_waits_for_the_handlers_at_work() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    backlog(&client, "waited").await;
    let (options, events) = options("waited");
    let (gate, first_seen) = (Arc::new(Semaphore::new(0)), Seen::default());
    let (shut, told) = (Arc::clone(&gate), Arc::clone(&first_seen));
    let handler = move |message: Received, _: Context| {
        let gate = Arc::clone(&shut);
        told.lock().unwrap().push((message.queue, message.offset.0));
        async move {
            drop(gate.acquire().await);
            Ok(())
        }
    };
    let first = start(&client, options, handler).await;
    until("a handler of each queue", || first_seen.lock().unwrap().len() == 2).await;
    let (second, seen) = another(&client, "waited").await;
    let drains = |event: &AssignmentEvent| matches!(event, AssignmentEvent::Draining { .. });
    until("a queue drains", || events.lock().unwrap().iter().any(drains)).await;
    assert_eq!(moved(&events).1, ["draining"], "not before its handler has ended");
    assert_eq!(*seen.lock().unwrap(), []);
    gate.close();
    let both = || first_seen.lock().unwrap().len() + seen.lock().unwrap().len();
    until("everything", || both() == 2 * EACH).await;
    let (queue, what) = moved(&events);
    assert_eq!(what, ["draining", "released"]);
    // The message at work was not given out again, and nothing behind it was begun.
    assert_eq!(*seen.lock().unwrap(), all_of(queue)[1..]);
    stop([first, second]).await;
    assert_eq!(committed_by_queue(&client, "g", "waited").await, [3; 2]);
}

#[tokio::test]
async fn handlers_that_take_too_long_are_cancelled_when_their_queue_falls_to_another_member() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    backlog(&client, "cancelled").await;
    let (options, events) = options("cancelled");
    let at_work: Arc<Mutex<BTreeSet<u32>>> = Arc::default();
    let working = Arc::clone(&at_work);
    let handler = move |message: Received, _: Context| {
        let at_work = AtWork::begin(&working, message.queue);
        async move {
            std::future::pending::<()>().await;
            drop(at_work);
            Ok(())
        }
    };
    let impatient = ConsumerOptions { drain_max: Duration::from_millis(300), ..options };
    let first = start(&client, impatient, handler).await;
    until("a handler of each queue", || at_work.lock().unwrap().len() == 2).await;
    let begin = Instant::now();
    let (second, seen) = another(&client, "cancelled").await;
    until("the queue is handled on", || seen.lock().unwrap().len() == EACH).await;
    assert!(begin.elapsed() < Duration::from_secs(4), "nobody waited for a lease: {:?}", begin.elapsed());
    let (queue, what) = moved(&events);
    assert_eq!(what, ["draining", "released"]);
    assert_eq!(*seen.lock().unwrap(), all_of(queue), "what was cancelled is handled again");
    assert_eq!(*at_work.lock().unwrap(), BTreeSet::from([1 - queue]), "the other queue goes on");
    let stats = first.stats();
    assert_eq!((stats.fenced, stats.lost_grants, second.stats().lost_grants), (0, 0, 0));
    stop([first, second]).await;
    let mut expected = [0; 2];
    expected[queue as usize] = 3;
    assert_eq!(committed_by_queue(&client, "g", "cancelled").await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_cannot_be_cancelled_loses_its_queue_in_the_end() {
    let cluster = Cluster::start_with(|config| config.groups.lease_ms = 3_000);
    let client = ready(&cluster).await;
    backlog(&client, "fenced").await;
    let (options, events) = options("fenced");
    let (open, gate) = mpsc::channel::<()>();
    let (gate, begun, ended) =
        (Arc::new(Mutex::new(gate)), Seen::default(), Arc::new(Mutex::new(Vec::new())));
    let (begins, ends) = (Arc::clone(&begun), Arc::clone(&ended));
    let handler = move |message: Received, context: Context| {
        let (gate, begun, ended) = (Arc::clone(&gate), Arc::clone(&begins), Arc::clone(&ends));
        async move {
            begun.lock().unwrap().push((message.queue, message.offset.0));
            // Never gives the thread back before it is done.
            tokio::task::block_in_place(|| gate.lock().unwrap().recv().unwrap_or_default());
            ended.lock().unwrap().push((message.queue, message.offset.0, context.is_over()));
            Ok(())
        }
    };
    let impatient = ConsumerOptions {
        drain_max: Duration::from_millis(200),
        processing_max: Duration::from_millis(600),
        ..options
    };
    let first = start(&client, impatient, handler).await;
    until("a handler of each queue", || begun.lock().unwrap().len() == 2).await;
    let (second, seen) = another(&client, "fenced").await;
    until("a queue is given up", || first.stats().fenced == 1).await;
    until("the queue is handled on", || seen.lock().unwrap().len() == EACH).await;
    let (queue, what) = moved(&events);
    assert_eq!(what, ["draining", "lost"]);
    assert_eq!(*seen.lock().unwrap(), all_of(queue));
    assert_eq!(*ended.lock().unwrap(), [], "the handlers are still at work");
    assert_eq!((first.stats().fenced, first.stats().lost_grants), (1, 0));
    // They end at last: one of them for nothing, the other one well, and its queue goes on.
    drop(open);
    until("the handlers end", || ended.lock().unwrap().len() == 1 + EACH).await;
    let mut ended = ended.lock().unwrap().clone();
    ended.sort_unstable();
    let mut expected: Vec<(u32, u64, bool)> =
        all_of(1 - queue).into_iter().map(|(queue, offset)| (queue, offset, false)).collect();
    expected.push((queue, 0, true));
    expected.sort_unstable();
    assert_eq!(ended, expected);
    stop([first, second]).await;
    assert_eq!(seen.lock().unwrap().len(), EACH, "nothing came twice to who handled on");
    assert_eq!(committed_by_queue(&client, "g", "fenced").await, [3; 2]);
}
