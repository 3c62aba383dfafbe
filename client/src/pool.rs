//! The connections of a client, one per endpoint: made when asked for, made again with a growing, jittered pause.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use equeue_net::api::Heartbeat;
use equeue_net::preamble::Purpose;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::debug;

use crate::ClientError;
use crate::connection::{Connection, Endpoint, Introduction};
use crate::retry::Backoff;

/// Longest pause between two attempts to connect.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often a broker is told that this client lives.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);

/// The connections to any number of servers.
#[derive(Debug)]
pub(crate) struct Pool {
    who: Introduction,
    slots: Mutex<HashMap<Endpoint, Arc<Slot>>>,
    /// What heartbeats tell.
    presence: Arc<Mutex<Heartbeat>>,
}

/// The connection to one endpoint.
#[derive(Debug)]
struct Slot {
    state: AsyncMutex<SlotState>,
}

#[derive(Debug)]
struct SlotState {
    connection: Option<Arc<Connection>>,
    backoff: Backoff,
    /// No attempt before.
    not_before: Option<Instant>,
    /// The attempt that failed last: when it ended, and how.
    failed: Option<(Instant, ClientError)>,
}

impl Pool {
    /// Without connections.
    pub(crate) fn new(who: Introduction) -> Self {
        let presence = Heartbeat { producing: Vec::new(), group: String::new(), consuming: Vec::new() };
        Self { who, slots: Mutex::default(), presence: Arc::new(Mutex::new(presence)) }
    }

    /// A pool of its own for the same client: for the servers it is another start of it.
    pub(crate) fn another(&self) -> Self {
        Self::new(Introduction { incarnation: rand::random(), ..self.who.clone() })
    }

    /// Name and incarnation, as Hello tells them.
    pub(crate) fn identity(&self) -> (&str, u128) {
        (&self.who.client_id, self.who.incarnation)
    }

    /// How long an answer may take.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.who.request_timeout
    }

    /// Changes what heartbeats tell.
    pub(crate) fn present(&self, change: impl FnOnce(&mut Heartbeat)) {
        change(&mut self.presence.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A live connection: the one there is, or a new one. An attempt is made once the pause after the last failed one
    /// is over; calls that wait for the same attempt share its outcome.
    ///
    /// Cancel safe.
    pub(crate) async fn get(&self, endpoint: &Endpoint) -> Result<Arc<Connection>, ClientError> {
        self.get_patiently(endpoint, true).await
    }

    /// Like [`Pool::get`]; during the pause after a failed attempt, that attempt's error at once.
    pub(crate) async fn get_at_once(&self, endpoint: &Endpoint) -> Result<Arc<Connection>, ClientError> {
        self.get_patiently(endpoint, false).await
    }

    async fn get_patiently(
        &self,
        endpoint: &Endpoint,
        patient: bool,
    ) -> Result<Arc<Connection>, ClientError> {
        let asked = Instant::now();
        let slot = self.slot(endpoint);
        let mut state = slot.state.lock().await;
        if let Some(connection) = state.connection.as_ref().filter(|connection| !connection.is_ended()) {
            return Ok(Arc::clone(connection));
        }
        state.connection = None;
        if let Some((when, error)) = &state.failed
            && (*when > asked || !patient && state.not_before.is_some_and(|not_before| not_before > asked))
        {
            return Err(error.clone());
        }
        if let Some(not_before) = state.not_before {
            sleep_until(not_before).await;
        }
        match Connection::open(endpoint, &self.who).await {
            Ok(connection) => {
                debug!(server = %endpoint.address, shard = ?endpoint.shard, purpose = ?endpoint.purpose, "connected");
                state.backoff.reset();
                // A server that accepts and then drops connections is not hammered either.
                state.not_before = Some(Instant::now() + state.backoff.pause());
                state.failed = None;
                state.connection = Some(Arc::clone(&connection));
                if endpoint.purpose != Purpose::Admin {
                    self.beat(&connection);
                }
                Ok(connection)
            }
            Err(error) => {
                let now = Instant::now();
                state.not_before = Some(now + state.backoff.pause());
                state.failed = Some((now, error.clone()));
                Err(error)
            }
        }
    }

    /// Ends all connections.
    pub(crate) fn end_all(&self, reason: &str) {
        let slots = std::mem::take(&mut *self.slots.lock().unwrap_or_else(PoisonError::into_inner));
        for slot in slots.into_values() {
            // A slot that is locked is connecting: nobody keeps that connection, so it ends when it is dropped.
            if let Ok(mut state) = slot.state.try_lock()
                && let Some(connection) = state.connection.take()
            {
                connection.end(reason);
            }
        }
    }

    fn slot(&self, endpoint: &Endpoint) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(endpoint) {
            return Arc::clone(slot);
        }
        let state = SlotState {
            connection: None,
            backoff: Backoff::new(RECONNECT_PAUSE_MAX),
            not_before: None,
            failed: None,
        };
        let slot = Arc::new(Slot { state: AsyncMutex::new(state) });
        slots.insert(endpoint.clone(), Arc::clone(&slot));
        slot
    }

    /// Tells the broker every second that this client lives; no answer ends the connection.
    fn beat(&self, connection: &Arc<Connection>) {
        let connection = Arc::downgrade(connection);
        let presence = Arc::clone(&self.presence);
        tokio::spawn(async move {
            let mut tick = interval(HEARTBEAT_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Some(connection) = connection.upgrade().filter(|connection| !connection.is_ended())
                else {
                    return;
                };
                let heartbeat = presence.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Err(error) = connection.call(&heartbeat).await
                    && !matches!(error, ClientError::Refused { .. })
                {
                    connection.end("no answer to a heartbeat");
                    return;
                }
            }
        });
    }
}
