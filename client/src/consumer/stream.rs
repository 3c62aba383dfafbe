//! The messages of a pull consumer as a stream.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::stream::{BoxStream, StreamExt as _, unfold};
use tokio::sync::oneshot;

use super::pull::Consumer;
use crate::{ClientError, Received};

/// How long one wait for a message may be.
const PULL_PATIENCE: Duration = Duration::from_hours(1);

/// Messages, one by one. With periodic commits a message counts as handled when the next one is asked for.
pub struct MessageStream {
    messages: BoxStream<'static, Result<Received, ClientError>>,
    stop: oneshot::Sender<oneshot::Sender<Consumer>>,
}

impl MessageStream {
    pub(super) fn new(consumer: Consumer) -> Self {
        let (stop, stopped) = oneshot::channel::<oneshot::Sender<Consumer>>();
        let messages = unfold(Some((consumer, stopped)), async |state| {
            let (mut consumer, mut stopped) = state?;
            loop {
                tokio::select! {
                    biased;
                    give_back = &mut stopped => {
                        if let Ok(give_back) = give_back {
                            let _ = give_back.send(consumer);
                        }
                        return None;
                    }
                    pulled = consumer.pull(1, PULL_PATIENCE) => match pulled {
                        Ok(messages) => if let Some(message) = messages.into_iter().next() {
                            return Some((Ok(message), Some((consumer, stopped))));
                        },
                        Err(ClientError::Closed) => return None,
                        Err(error) => return Some((Err(error), Some((consumer, stopped)))),
                    },
                }
            }
        });
        Self { messages: messages.boxed(), stop }
    }

    /// The consumer again; `None` when the stream has ended.
    pub async fn into_consumer(mut self) -> Option<Consumer> {
        let (give_back, consumer) = oneshot::channel();
        self.stop.send(give_back).ok()?;
        let _ = self.messages.next().await;
        consumer.await.ok()
    }
}

impl Stream for MessageStream {
    type Item = Result<Received, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.messages.poll_next_unpin(context)
    }
}

impl std::fmt::Debug for MessageStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MessageStream")
    }
}
