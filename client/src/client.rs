//! The client: what all producers, consumers and admin calls of an application share.

use std::sync::Arc;
use std::time::Duration;

use equeue_net::limits::NAME_BYTES_MAX;
use equeue_net::preamble::Purpose;
use tokio::task::AbortHandle;

use crate::connection::{Connection, Endpoint, Introduction};
use crate::pool::Pool;
use crate::routes::Routes;
use crate::{
    Admin, ClientError, Consumer, ConsumerOptions, Context, HandlerError, Producer, ProducerOptions,
    PushConsumer, PushOptions, Received,
};

/// An application's entry to a cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<ClientInner>,
}

/// What producers, consumers and admin calls share.
#[derive(Debug)]
pub(crate) struct ClientInner {
    /// Produce and admin connections; consumers have pools of their own.
    pub pool: Arc<Pool>,
    /// Where the queues live.
    pub routes: Arc<Routes>,
    refresher: AbortHandle,
}

impl ClientInner {
    /// An admin connection to a broker.
    pub(crate) async fn admin(&self, broker: &str) -> Result<Arc<Connection>, ClientError> {
        let address = self.routes.load().address(broker).cloned();
        let address = address.ok_or_else(|| ClientError::BrokerAway { broker: broker.into() })?;
        self.admin_at(&address, None).await
    }

    /// An admin connection to an address, perhaps to a certain shard there.
    pub(crate) async fn admin_at(
        &self,
        address: &str,
        shard: Option<u16>,
    ) -> Result<Arc<Connection>, ClientError> {
        self.pool.get(&Endpoint { address: address.into(), shard, purpose: Purpose::Admin }).await
    }
}

impl Drop for ClientInner {
    fn drop(&mut self) {
        self.refresher.abort();
    }
}

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
    pub fn producer(&self, options: ProducerOptions) -> Producer {
        Producer::start(Arc::clone(&self.inner), options)
    }

    /// A consumer that pulls; resolves when the routes of its topics are known.
    ///
    /// # Errors
    /// [`ClientError::Option`], [`ClientError::TopicNotFound`], [`ClientError::NoNameserver`].
    pub async fn consumer(&self, options: ConsumerOptions) -> Result<Consumer, ClientError> {
        Consumer::start(Arc::clone(&self.inner), options).await
    }

    /// A consumer whose messages go to `handler`; resolves when the routes of its topics are known.
    ///
    /// # Errors
    /// As [`Client::consumer`].
    pub async fn push_consumer<H, F>(
        &self,
        options: ConsumerOptions,
        push: PushOptions,
        handler: H,
    ) -> Result<PushConsumer, ClientError>
    where
        H: Fn(Received, Context) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        PushConsumer::start(Arc::clone(&self.inner), options, push, handler).await
    }

    /// The admin calls.
    pub fn admin(&self) -> Admin {
        Admin::new(Arc::clone(&self.inner))
    }

    /// Ends the background work and closes the connections. Producers and consumers are to be closed before.
    #[expect(clippy::unused_async, reason = "leaves room for an orderly goodbye to the servers")]
    pub async fn close(&self) {
        self.inner.refresher.abort();
        self.inner.pool.end_all("the client was closed");
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
    #[expect(clippy::unused_async, reason = "must be called inside a runtime, which the signature says")]
    pub async fn connect(self) -> Result<Client, ClientError> {
        if self.nameservers.is_empty() {
            return Err(ClientError::Option { option: "nameservers", reason: "none is named".to_owned() });
        }
        if self.client_id.len() > NAME_BYTES_MAX {
            let reason = format!("longer than {NAME_BYTES_MAX} bytes");
            return Err(ClientError::Option { option: "client_id", reason });
        }
        let client_id = match self.client_id {
            id if id.is_empty() => format!("client-{}", std::process::id()),
            id => id,
        };
        let who = Introduction {
            client_id,
            incarnation: rand::random(),
            connect_timeout: self.connect_timeout,
            request_timeout: self.request_timeout,
        };
        let pool = Arc::new(Pool::new(who));
        let nameservers = self.nameservers.iter().map(|address| address.as_str().into()).collect();
        let routes = Arc::new(Routes::new(self.cluster, nameservers, Arc::clone(&pool)));
        let refresher = tokio::spawn(Arc::clone(&routes).keep_fresh()).abort_handle();
        Ok(Client { inner: Arc::new(ClientInner { pool, routes, refresher }) })
    }
}
