//! Finding the route of a topic that is not known yet, and having the topic created where that is allowed.

use std::sync::Arc;
use std::time::Duration;

use equeue_net::api::CreateTopic;
use rand::seq::SliceRandom as _;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::shared::Shared;
use crate::retry::Backoff;
use crate::routes::{Topic, with_causes};
use crate::{ClientError, SendError};

/// Longest pause between two attempts while nobody can be asked.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Makes the topic's queues known to the producer, within `patience`.
pub(crate) async fn find_route(
    shared: &Arc<Shared>,
    topic: &str,
    patience: Duration,
) -> Result<(), SendError> {
    let failed = |reason: Arc<str>| SendError::NoRoute { topic: topic.into(), reason };
    let finding = async {
        let mut backoff = Backoff::new(PAUSE_MAX);
        loop {
            match find(shared, topic).await {
                Ok(route) => return Ok(route),
                // The cluster cannot be asked at the moment; the message waits for it as for any other answer.
                Err(error) if error.is_transient() => {
                    debug!(topic, %error, "no route yet");
                    sleep(backoff.pause()).await;
                }
                Err(error) => return Err(failed(with_causes(&error))),
            }
        }
    };
    let nobody = || failed(format!("nobody could be asked within {patience:?}").into());
    let route = timeout(patience, finding).await.unwrap_or_else(|_| Err(nobody()))?;
    if route.queues.is_empty() {
        return Err(failed("the topic has no queues".into()));
    }
    shared.adopt_topic(&route);
    shared.client.pool.present(|heartbeat| {
        if !heartbeat.producing.iter().any(|known| *known == *route.name) {
            heartbeat.producing.push(String::from(&*route.name));
        }
    });
    Ok(())
}

async fn find(shared: &Arc<Shared>, topic: &str) -> Result<Arc<Topic>, ClientError> {
    let routes = &shared.client.routes;
    if routes.load().topics.contains_key(topic) {
        return routes.resolve(topic).await;
    }
    if shared.options.auto_create {
        // Looked for first: another producer may have created it a moment ago.
        routes.want(topic);
        routes.round().await?;
        if !routes.load().topics.contains_key(topic) {
            match create(shared, topic).await {
                Ok(()) => {}
                // Not here, or not now: somebody else may create it meanwhile.
                Err(error @ ClientError::Refused { .. }) => {
                    debug!(topic, %error, "the topic was not created");
                }
                // No broker could be asked.
                Err(error) => return Err(error),
            }
        }
    }
    routes.resolve(topic).await
}

/// Asks one live broker to create the topic.
async fn create(shared: &Arc<Shared>, topic: &str) -> Result<(), ClientError> {
    let client = &shared.client;
    let mut brokers: Vec<Arc<str>> = {
        let snapshot = client.routes.load();
        snapshot.brokers_to_ask().iter().map(|broker| broker.entry.name.as_str().into()).collect()
    };
    brokers.shuffle(&mut rand::rng());
    let mut outcome = Err(ClientError::BrokerAway { broker: "*".into() });
    for broker in &brokers {
        let wish =
            CreateTopic { topic: topic.to_owned(), map: Vec::new(), queues: 0, version: 1, auto: true };
        let answer = match client.admin(broker).await {
            Ok(connection) => connection.call(&wish).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => {
                if let Some(snapshot) = &answer.topic {
                    client.routes.learn(broker, snapshot);
                }
                return Ok(());
            }
            // It was reached: another one would make a topic of its own.
            Err(error @ ClientError::Refused { .. }) => return Err(error),
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

impl Shared {
    /// Asks for a route in the background; a topic that is being asked for is not asked for twice.
    pub(crate) fn ask_for_route(self: &Arc<Self>, topic: &str) {
        let Some(asking) = self.begin_asking(topic) else { return };
        let shared = Arc::clone(self);
        self.spawn(async move {
            let outcome = find_route(&shared, &asking, shared.options.send_timeout).await;
            shared.end_asking(&asking);
            if let Err(error) = outcome {
                debug!(topic = %asking, %error, "no route");
            }
        });
    }
}
