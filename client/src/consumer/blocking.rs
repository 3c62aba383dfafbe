//! The pull consumer for programs without an asynchronous runtime.

use std::time::Duration;

use tokio::runtime::Runtime;

use super::pull::Consumer;
use super::{ConsumerOptions, QueuePosition};
use crate::{Client, ClientBuilder, ClientError, Received};

/// A pull consumer whose calls block the thread. Heartbeats and commits go on meanwhile, on a thread of its own.
#[derive(Debug)]
pub struct BlockingConsumer {
    consumer: Consumer,
    client: Client,
    runtime: Runtime,
}

impl BlockingConsumer {
    /// Connects and joins the group. Must not be called inside an asynchronous runtime.
    ///
    /// # Errors
    /// As [`Client::consumer`]; [`ClientError::Runtime`] when no thread can be started.
    pub fn start(client: ClientBuilder, options: ConsumerOptions) -> Result<Self, ClientError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("equeue-consumer")
            .enable_all()
            .build()
            .map_err(|source| ClientError::Runtime { source: source.into() })?;
        let (client, consumer) = runtime.block_on(async {
            let client = client.connect().await?;
            let consumer = client.consumer(options).await?;
            Ok::<_, ClientError>((client, consumer))
        })?;
        Ok(Self { consumer, client, runtime })
    }

    /// See [`Consumer::pull`].
    pub fn pull(&mut self, max: usize, timeout: Duration) -> Result<Vec<Received>, ClientError> {
        self.runtime.block_on(self.consumer.pull(max, timeout))
    }

    /// See [`Consumer::commit`].
    pub fn commit(&mut self) -> Result<(), ClientError> {
        self.runtime.block_on(self.consumer.commit())
    }

    /// See [`Consumer::positions`].
    pub fn positions(&self) -> Vec<QueuePosition> {
        self.consumer.positions()
    }

    /// Pause, resume, seek: what does not wait.
    pub fn consumer(&mut self) -> &mut Consumer {
        &mut self.consumer
    }

    /// See [`Consumer::close`].
    pub fn close(self) -> Result<(), ClientError> {
        let Self { consumer, client, runtime } = self;
        runtime.block_on(async {
            let outcome = consumer.close().await;
            client.close().await;
            outcome
        })
    }
}
