//! The client: what all producers, consumers and admin calls of an application share.

use std::sync::Arc;
use std::time::Duration;

use crate::{Admin, ClientError, Consumer, ConsumerOptions, Producer, ProducerOptions};

/// An application's entry to a cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<ClientInner>,
}

#[derive(Debug)]
pub(crate) struct ClientInner {}

/// Settings of a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    nameservers: Vec<String>,
    cluster: String,
    client_id: String,
    connect_timeout: Duration,
    request_timeout: Duration,
}

impl Client {
    /// Begins with the default settings.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            nameservers: Vec::new(),
            cluster: String::new(),
            client_id: String::new(),
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(10),
        }
    }

    /// A producer with these options. Must be called inside a tokio runtime.
    pub fn producer(&self, _options: ProducerOptions) -> Producer {
        let _ = &self.inner;
        todo!()
    }

    /// A consumer with these options.
    pub async fn consumer(&self, _options: ConsumerOptions) -> Result<Consumer, ClientError> {
        todo!()
    }

    /// The admin calls.
    pub fn admin(&self) -> Admin {
        todo!()
    }

    /// Ends the background work and closes the connections. Producers and consumers are to be closed before.
    pub async fn close(&self) {
        todo!()
    }
}

impl ClientBuilder {
    /// `host:port` of every nameserver.
    #[must_use]
    pub fn nameservers(mut self, nameservers: impl IntoIterator<Item: Into<String>>) -> Self {
        self.nameservers = nameservers.into_iter().map(Into::into).collect();
        self
    }

    /// Name of the cluster; empty (default): the only one that the nameservers know.
    #[must_use]
    pub fn cluster(mut self, cluster: impl Into<String>) -> Self {
        self.cluster = cluster.into();
        self
    }

    /// Name of this client, for people; default: host process id.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = client_id.into();
        self
    }

    /// How long one attempt to connect may take (3 s).
    #[must_use]
    pub fn connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// How long an answer may take (10 s).
    #[must_use]
    pub fn request_timeout(mut self, request_timeout: Duration) -> Self {
        self.request_timeout = request_timeout;
        self
    }

    /// Starts the client. Needs no live nameserver: they are tried in the background.
    ///
    /// # Errors
    /// [`ClientError::Option`] only.
    pub async fn connect(self) -> Result<Client, ClientError> {
        todo!()
    }
}
