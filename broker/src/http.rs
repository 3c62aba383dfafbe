//! Metrics and health over HTTP, on the control thread.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::broker::{Broker, Phase};
use crate::metrics::Metrics;

/// The media type of the text format that Prometheus reads.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Context {
    broker: Arc<Broker>,
    metrics: Arc<Metrics>,
}

/// Serves until the future is dropped.
///
/// # Errors
/// The listener failed.
pub(crate) async fn serve(listener: std::net::TcpListener, broker: Arc<Broker>) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let metrics = Arc::new(Metrics::new(Arc::clone(&broker)));
    let routes = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .with_state(Context { broker, metrics });
    axum::serve(listener, routes).await
}

async fn metrics_text(State(context): State<Context>) -> impl IntoResponse {
    match context.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn alive() -> &'static str {
    "ok\n"
}

async fn ready(State(context): State<Context>) -> (StatusCode, &'static str) {
    let refused = |why| (StatusCode::SERVICE_UNAVAILABLE, why);
    match context.broker.phase() {
        Phase::Starting => refused("starting\n"),
        Phase::Stopping => refused("stopping\n"),
        Phase::Ready if context.broker.is_poisoned() => refused("a log failed; see the broker's log\n"),
        Phase::Ready => (StatusCode::OK, "ready\n"),
    }
}
