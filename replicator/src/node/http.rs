//! Health and metrics over HTTP, and the control socket.
//!
//! Reads [`Status`] when asked. It changes three things: it passes a retry of a batch in quarantine
//! on to the writer, lets the writer store its positions, and removes a node from the registry.

use super::report::StatusSources;
use super::schema_entry::FetchError;
use super::writer::{ToWriter, flush};
use super::{metrics, registry, schema_entry};
use crate::db::published_objects::Published;
use crate::inbound::Input;
use crate::model::status::Status;
use crate::nats::{Asker, Target};
use crate::settings::{Settings, bind_address};
use axum::extract::{Path as UrlPath, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A port or socket that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{what}: cannot listen on {bind}: {error}")]
pub struct ListenError {
    what: &'static str,
    bind: String,
    error: std::io::Error,
}

async fn listen(what: &'static str, bind: &str) -> Result<TcpListener, ListenError> {
    let failed = |error| ListenError { what, bind: bind.to_owned(), error };
    let address = bind_address(bind).map_err(|error| failed(std::io::Error::other(error)))?;
    TcpListener::bind(address).await.map_err(failed)
}

fn serve(listener: TcpListener, router: Router) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the HTTP server ended");
        }
    })
}

/// The ports that the settings ask for, held and not served yet.
#[derive(Default)]
pub(super) struct Ports {
    health: Option<TcpListener>,
    metrics: Option<TcpListener>,
}

/// Takes the ports of health and metrics, before anything else is touched. They may share one
/// address.
///
/// # Errors
/// A port in use.
pub(super) async fn bind(settings: &Settings) -> Result<Ports, ListenError> {
    let (health, prometheus) = (&settings.health_check, &settings.prometheus);
    let mut ports = Ports::default();
    if is_shared(settings) {
        ports.health = Some(listen("health_check.bind and prometheus.bind", &health.bind).await?);
        return Ok(ports);
    }
    if health.enable {
        ports.health = Some(listen("health_check.bind", &health.bind).await?);
    }
    if prometheus.enable {
        ports.metrics = Some(listen("prometheus.bind", &prometheus.bind).await?);
    }
    Ok(ports)
}

fn is_shared(settings: &Settings) -> bool {
    settings.health_check.enable
        && settings.prometheus.enable
        && settings.health_check.bind == settings.prometheus.bind
}

/// Starts to answer on the ports.
pub(super) fn start(ports: Ports, sources: &Arc<StatusSources>) -> Vec<JoinHandle<()>> {
    let path = &sources.settings.health_check.path;
    let mut health = Router::new().route(path, get(show_health)).with_state(Arc::clone(sources));
    let metrics =
        Router::new().route("/metrics", get(show_metrics)).with_state(Arc::clone(sources));
    if is_shared(&sources.settings) {
        health = health.merge(metrics.clone());
    }
    let served = [
        ports.health.map(|listener| serve(listener, health)),
        ports.metrics.map(|listener| serve(listener, metrics)),
    ];
    served.into_iter().flatten().collect()
}

/// Starts the control socket. Replaces the socket file of a former process; the lock proves that it
/// ended.
///
/// # Errors
/// The file system's error.
pub(super) fn start_control(
    socket: &Path,
    sources: &Arc<StatusSources>,
    writer: Sender<ToWriter>,
    asker: Asker,
    target: watch::Receiver<Target>,
) -> Result<JoinHandle<()>, ListenError> {
    let failed =
        |error| ListenError { what: "control socket", bind: socket.display().to_string(), error };
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(failed)?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(socket, permissions).map_err(failed)?;
    let writer = Arc::new(parking_lot::Mutex::new(writer));
    let retry = Router::new()
        .route("/quarantine/{id}/retry", post(retry_quarantine))
        .with_state(Arc::clone(&writer));
    let snapshots = Router::new()
        .route("/flush", post(store_positions))
        .route("/broker", get(show_broker))
        .with_state((writer, Arc::clone(sources), target));
    let registry = Router::new()
        .route("/nodes/{id}/forget", post(forget_node))
        .route("/registry", get(show_registry))
        .route("/schema/{node}", get(show_schema))
        .with_state(asker);
    let router = Router::new()
        .route("/status", get(show_status))
        .with_state(Arc::clone(sources))
        .merge(retry)
        .merge(snapshots)
        .merge(registry);
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the control socket ended");
        }
    }))
}

async fn status(sources: Arc<StatusSources>) -> Result<Status, Response> {
    let asked = tokio::task::spawn_blocking(move || sources.status()).await;
    asked.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response())
}

async fn show_status(State(sources): State<Arc<StatusSources>>) -> Result<Json<Status>, Response> {
    status(sources).await.map(Json)
}

async fn show_registry(
    State(asker): State<Asker>,
) -> Result<Json<Vec<serde_json::Value>>, (StatusCode, String)> {
    registry::read(&asker, None)
        .await
        .map(Json)
        .map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
}

async fn forget_node(State(asker): State<Asker>, UrlPath(node): UrlPath<u64>) -> Response {
    match registry::forget(&asker, node).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

async fn show_schema(
    State(asker): State<Asker>,
    UrlPath(node): UrlPath<u64>,
) -> Result<Json<Published>, (StatusCode, String)> {
    match schema_entry::fetch(&asker, node).await {
        Ok(Some(published)) => Ok(Json(published)),
        Ok(None) => Err((StatusCode::NOT_FOUND, String::new())),
        Err(error @ FetchError::Entry { .. }) => Err((StatusCode::BAD_GATEWAY, error.to_string())),
        Err(error) => Err((StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}

type SnapshotAccess =
    (Arc<parking_lot::Mutex<Sender<ToWriter>>>, Arc<StatusSources>, watch::Receiver<Target>);

/// Stores positions and marks, for a snapshot that another process takes now.
async fn store_positions(State((writer, sources, _)): State<SnapshotAccess>) -> StatusCode {
    flush(&writer, sources.writer.clone()).await;
    StatusCode::NO_CONTENT
}

/// Returns the access to the embedded server. Only this user reaches the socket, and this user can
/// read the server's configuration file anyway.
async fn show_broker(State((_, _, target)): State<SnapshotAccess>) -> Response {
    let access = target.borrow().access.clone();
    match access {
        Some(access) => Json(access.revealed()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn retry_quarantine(
    State(writer): State<Arc<parking_lot::Mutex<Sender<ToWriter>>>>,
    UrlPath(id): UrlPath<i64>,
) -> StatusCode {
    let sent = writer.lock().send(ToWriter::Input(Input::RetryQuarantine(id)));
    if sent.is_ok() { StatusCode::ACCEPTED } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn show_metrics(State(sources): State<Arc<StatusSources>>) -> Result<Response, Response> {
    let (namespace, subsystem) = (
        sources.settings.prometheus.namespace.clone(),
        sources.settings.prometheus.subsystem.clone(),
    );
    let status = status(sources).await?;
    match metrics::text(&status, &namespace, &subsystem) {
        Ok(text) => Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()),
    }
}

async fn show_health(State(sources): State<Arc<StatusSources>>) -> Result<Response, Response> {
    let detailed = sources.settings.health_check.detailed;
    let (code, body) = health(&status(sources).await?, detailed);
    Ok((code, Json(body)).into_response())
}

/// The health JSON of HarmonyLite (Go), with the reasons why the node is degraded.
fn health(status: &Status, detailed: bool) -> (StatusCode, serde_json::Value) {
    let db_connected =
        !status.failing.iter().any(|reason| reason.starts_with("the database cannot be read"));
    let healthy = status.failing.is_empty();
    let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if healthy { "healthy" } else { "unhealthy" };
    if !detailed {
        return (code, serde_json::json!({ "status": word }));
    }
    let body = serde_json::json!({
        "status": word,
        "node_id": status.node_id,
        "uptime_seconds": (status.now_ms - status.started_ms) / 1_000,
        "db_connected": db_connected,
        "nats_connected": status.broker.connected,
        "cdc_installed": !status.tables.is_empty(),
        "tables_tracked": status.tables.len(),
        "last_replicated_event_timestamp": status.last_applied_ms,
        "last_published_event_timestamp": status.last_published_ms,
        "version": status.version,
        "degraded": !status.degraded.is_empty(),
        "reasons": status.degraded,
        "joined": status.joined,
        "pending_rows": status.pending_rows,
        "lag_ms": status.lag_ms(),
        "snapshot_saved_timestamp": status.snapshots.saved_ms,
        "snapshot_verified_timestamp": status.snapshots.verified_ms,
    });
    (code, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_for_which_nothing_is_replicated_makes_unhealthy() {
        let mut status = Status::default();
        status.degraded.push("clocks differ".into());
        assert_eq!(
            health(&status, false),
            (StatusCode::OK, serde_json::json!({ "status": "healthy" }))
        );
        status.streams = vec![Default::default()];
        status.fail("disconnected from NATS".into());
        let (code, body) = health(&status, true);
        assert_eq!(
            (code, body["status"].as_str(), body["reasons"].as_array().map(Vec::len)),
            (StatusCode::SERVICE_UNAVAILABLE, Some("unhealthy"), Some(2))
        );
        assert!(body["lag_ms"].is_null(), "not known");
    }
}
