//! Prepares a new connection: checks the server and the other nodes' settings, creates the streams
//! and the registry bucket.
//!
//! Arrives: a connected client. Leaves: a [`Session`], or the failure. Owns: an existing stream or
//! bucket is never changed without `update_existing`. A stream gets a random id when it is made, by
//! which nodes recognise that they use the same one. Runs on every connection; after a crash here
//! the next one finds the streams.

use super::connect::LinkError;
use super::peer_settings::{self, SharedSettings};
use super::wire;
use crate::embedded::{VERSION_MIN, parse_version};
use crate::model::ids::NodeId;
use crate::settings::Settings;
use async_nats::Client;
use async_nats::jetstream::context::{
    CreateKeyValueError, CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind,
};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode, context::AccountErrorKind, kv};
use std::collections::BTreeMap;
use std::time::Duration;

/// The bucket of registry entries and leases.
pub(super) const REGISTRY: &str = "harmonylite-schema-registry";
/// The key of a stream's id in its metadata.
const STREAM_ID: &str = "harmonylite-stream-id";
/// The size of the bucket if the account demands one: entries of some thousand nodes.
const REGISTRY_BYTES_MAX: i64 = 64 << 20;
/// How long the marker of an expired lease stays.
const MARKER: Duration = Duration::from_secs(60);
/// How long a request waits for its answer.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a request waits of somebody who only looks.
const LOOK: Duration = Duration::from_secs(2);
/// The first attempts wait less: a request before a cluster has a leader is never answered.
const REQUEST_MIN: Duration = Duration::from_millis(500);

/// A usable connection.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// The connection.
    pub client: Client,
    /// JetStream on the connection.
    pub jetstream: Context,
    /// Whether the registry's keys can expire.
    pub ttl: bool,
    /// The client's count of connections at the time of preparation.
    pub connects: u64,
    /// The JetStream domain with the streams; empty: that of the server.
    pub domain: String,
    /// The ids of the streams, by shard. A stream of an earlier version has none.
    pub streams: BTreeMap<u32, String>,
}

/// Checks the server, then finds or creates the streams and the bucket. `attempts` is the number of
/// failed attempts on this connection.
///
/// # Errors
/// [`LinkError`], which tells whether the failure may pass.
pub(super) async fn prepare(
    client: &Client,
    settings: &Settings,
    node: NodeId,
    attempts: u32,
) -> Result<Session, LinkError> {
    let timeout = (REQUEST_MIN * 2_u32.pow(attempts.min(4))).min(REQUEST);
    let mut session = checked_session(client, settings, timeout).await?;
    let version = client.server_info().version;
    session.ttl = ensure_registry(&session.jetstream, settings, &version).await?;
    // Before the streams: a node that is refused must not leave any.
    peer_settings::check(&session, settings, node).await?;
    for shard in 1..=settings.replication_log.shards {
        let id = ensure_stream(&session.jetstream, settings, shard).await?;
        session.streams.extend(id.map(|id| (shard, id)));
    }
    let ours = SharedSettings::of(settings, node, session.streams.clone());
    peer_settings::write(&session, &ours).await?;
    session.jetstream.set_timeout(REQUEST);
    Ok(session)
}

/// Checks the server. Creates nothing.
async fn checked_session(
    client: &Client,
    settings: &Settings,
    timeout: Duration,
) -> Result<Session, LinkError> {
    let connects = client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
    let info = client.server_info();
    if !is_new_enough(&info.version) {
        return Err(LinkError::Lasting(format!(
            "the NATS server {} has version {}; {}.{}.{} or later is needed: upgrade it",
            info.server_name, info.version, VERSION_MIN.0, VERSION_MIN.1, VERSION_MIN.2
        )));
    }
    let mut jetstream = context(client, settings);
    jetstream.set_timeout(timeout);
    check_jetstream(&jetstream, info.jetstream, &info.server_name).await?;
    Ok(Session {
        client: client.clone(),
        jetstream,
        ttl: false,
        connects,
        domain: settings.nats.js_domain.clone(),
        streams: BTreeMap::new(),
    })
}

/// Returns a connection that only looks.
///
/// # Errors
/// [`LinkError`].
pub(super) async fn read_only_session(
    client: &Client,
    settings: &Settings,
) -> Result<Session, LinkError> {
    checked_session(client, settings, LOOK).await
}

/// JetStream on a connection, in the configured domain.
fn context(client: &Client, settings: &Settings) -> Context {
    match settings.nats.js_domain.as_str() {
        "" => async_nats::jetstream::new(client.clone()),
        domain => async_nats::jetstream::with_domain(client.clone(), domain),
    }
}

/// Returns whether a stream or the bucket of a session does not exist any more.
pub(super) async fn is_anything_missing(session: &Session, settings: &Settings) -> bool {
    let streams = (1..=settings.replication_log.shards)
        .map(|shard| wire::stream_name(&settings.nats.stream_prefix, shard));
    for name in streams.chain([format!("KV_{REGISTRY}")]) {
        let found = session.jetstream.get_stream(&name).await;
        if found.is_err_and(|error| is_not_found(&error.kind())) {
            return true;
        }
    }
    false
}

fn is_not_found(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(e)
        if e.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn is_new_enough(version: &str) -> bool {
    parse_version(version).is_some_and(|found| found >= VERSION_MIN)
}

async fn check_jetstream(jetstream: &Context, here: bool, server: &str) -> Result<(), LinkError> {
    let Err(error) = jetstream.query_account().await else { return Ok(()) };
    let lasting = match error.kind() {
        AccountErrorKind::JetStream(e) => {
            matches!(
                e.error_code(),
                ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
            )
        }
        // Nobody answers: no server has JetStream, or this one is still starting it.
        AccountErrorKind::JetStreamUnavailable => !here,
        _ => false,
    };
    let text = format!("JetStream of the NATS server {server} does not answer: {error}");
    Err(if lasting {
        LinkError::Lasting(format!(
            "{text}: start it with -js, or enable JetStream for this account"
        ))
    } else {
        LinkError::Passing(text)
    })
}

/// The configuration of a stream.
fn stream_config(settings: &Settings, shard: u32) -> Config {
    let log = &settings.replication_log;
    Config {
        name: wire::stream_name(&settings.nats.stream_prefix, shard),
        description: Some("HarmonyLite batches".to_owned()),
        subjects: vec![wire::stream_subjects(&settings.nats.subject_prefix, shard)],
        max_messages: log.max_entries,
        max_bytes: log.max_bytes,
        max_age: Duration::from_millis(log.max_age.as_ms()),
        num_replicas: log.replicas,
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        allow_direct: true,
        ..Config::default()
    }
}

/// Finds or creates a stream. Returns its id, if it has one.
async fn ensure_stream(
    jetstream: &Context,
    settings: &Settings,
    shard: u32,
) -> Result<Option<String>, LinkError> {
    let wanted = stream_config(settings, shard);
    let found = match find_stream(jetstream, &wanted.name).await? {
        Some(found) => found,
        None => {
            let id = format!("{:016x}", getrandom::u64().unwrap_or_default());
            let mut made = wanted.clone();
            made.metadata.insert(STREAM_ID.to_owned(), id.clone());
            if create_stream(jetstream, made).await? {
                return Ok(Some(id));
            }
            find_stream(jetstream, &wanted.name).await?.ok_or_else(|| {
                LinkError::Passing(format!("stream {} has just gone again", wanted.name))
            })?
        }
    };
    let id = found.metadata.get(STREAM_ID).cloned();
    let differences = differences(&found, &wanted).join(", ");
    if differences.is_empty() {
        return Ok(id);
    }
    if !settings.replication_log.update_existing {
        return Err(other_configuration(&wanted.name, &differences));
    }
    // Change only our own settings, and keep the server's values of the others.
    let mut changed = found;
    take_over(&mut changed, &wanted);
    jetstream.update_stream(&changed).await.map_err(|error| {
        LinkError::Lasting(format!(
            "stream {} cannot be changed ({differences}): {error}",
            wanted.name
        ))
    })?;
    tracing::info!(
        stream = wanted.name,
        changed = differences,
        "changed the stream (update_existing)"
    );
    Ok(id)
}

fn other_configuration(stream: &str, differences: &str) -> LinkError {
    LinkError::Lasting(format!(
        "stream {stream} exists with another configuration ({differences}): give \
        [replication_log] the same values on all nodes, or set update_existing = true on one"
    ))
}

/// Returns whether a stream exists. Creates and changes nothing.
///
/// # Errors
/// A configuration that a start would refuse; [`LinkError::Passing`] without an answer.
pub(super) async fn stream_found(
    jetstream: &Context,
    settings: &Settings,
    shard: u32,
) -> Result<bool, LinkError> {
    let wanted = stream_config(settings, shard);
    let Some(found) = find_stream(jetstream, &wanted.name).await? else { return Ok(false) };
    let differences = differences(&found, &wanted).join(", ");
    if differences.is_empty() || settings.replication_log.update_existing {
        return Ok(true);
    }
    Err(other_configuration(&wanted.name, &differences))
}

/// Returns the configuration of a stream; None if there is none.
async fn find_stream(jetstream: &Context, name: &str) -> Result<Option<Config>, LinkError> {
    match jetstream.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
        Err(error) if is_not_found(&error.kind()) => Ok(None),
        Err(error) => Err(LinkError::Passing(format!("stream {name} does not answer: {error}"))),
    }
}

/// Creates a stream. Returns whether it did: no, if another node was quicker, whose stream has
/// another id.
async fn create_stream(jetstream: &Context, wanted: Config) -> Result<bool, LinkError> {
    let name = wanted.name.clone();
    let Err(error) = jetstream.create_stream(wanted).await else {
        tracing::info!(stream = name, "created the stream");
        return Ok(true);
    };
    if let CreateStreamErrorKind::JetStream(e) = error.kind()
        && e.error_code() == ErrorCode::STREAM_NAME_EXIST
    {
        return Ok(false);
    }
    Err(not_created(&format!("stream {name} cannot be created: {error}"), &error.kind()))
}

/// Tells whether a failed creation may pass, and which setting matters.
fn not_created(text: &str, kind: &CreateStreamErrorKind) -> LinkError {
    let code = match kind {
        CreateStreamErrorKind::JetStream(e) => e.error_code(),
        CreateStreamErrorKind::InvalidStreamName => ErrorCode::STREAM_INVALID_CONFIG,
        _ => return LinkError::Passing(text.to_owned()),
    };
    let hint = match code {
        ErrorCode::STREAM_MAX_BYTES_REQUIRED => {
            "this account demands a size: set replication_log.max_bytes, on all nodes"
        }
        ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => {
            "lower replication_log.max_bytes on all nodes (each of the replication_log.shards \
            streams reserves it), or raise the limit of the account or the server"
        }
        ErrorCode::MAXIMUM_STREAMS_LIMIT => {
            "HarmonyLite needs replication_log.shards streams and one bucket: raise the account's \
            limit of streams"
        }
        ErrorCode::STREAM_SUBJECT_OVERLAP
        | ErrorCode::STREAM_INVALID_CONFIG
        | ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED => {
            "check [replication_log], and nats.stream_prefix and nats.subject_prefix against other \
            streams"
        }
        // Another node may have created it a moment ago, or the cluster is incomplete: retry.
        _ => return LinkError::Passing(text.to_owned()),
    };
    LinkError::Lasting(format!("{text}: {hint}"))
}

fn take_over(stream: &mut Config, wanted: &Config) {
    stream.subjects.clone_from(&wanted.subjects);
    (stream.max_messages, stream.max_bytes, stream.max_age) =
        (wanted.max_messages, wanted.max_bytes, wanted.max_age);
    (stream.num_replicas, stream.allow_direct) = (wanted.num_replicas, wanted.allow_direct);
    stream.duplicate_window = stream.duplicate_window.min(if wanted.max_age.is_zero() {
        stream.duplicate_window
    } else {
        wanted.max_age
    });
}

/// The settings that differ from ours.
fn differences(found: &Config, wanted: &Config) -> Vec<String> {
    let mut out = Vec::new();
    let mut compare = |what: &str, found: String, wanted: String| {
        if found != wanted {
            out.push(format!("{what} is {found}, the configuration says {wanted}"));
        }
    };
    compare("subjects", found.subjects.join(","), wanted.subjects.join(","));
    compare("max_entries", found.max_messages.to_string(), wanted.max_messages.to_string());
    compare("max_bytes", found.max_bytes.to_string(), wanted.max_bytes.to_string());
    compare(
        "max_age",
        format!("{}s", found.max_age.as_secs()),
        format!("{}s", wanted.max_age.as_secs()),
    );
    compare("replicas", found.num_replicas.to_string(), wanted.num_replicas.to_string());
    compare("retention", format!("{:?}", found.retention), format!("{:?}", wanted.retention));
    compare("discard", format!("{:?}", found.discard), format!("{:?}", wanted.discard));
    out
}

/// Finds or creates the bucket. Returns whether its keys can expire.
async fn ensure_registry(
    jetstream: &Context,
    settings: &Settings,
    version: &str,
) -> Result<bool, LinkError> {
    let passing =
        |error: String| LinkError::Passing(format!("bucket {REGISTRY} does not answer: {error}"));
    let name = format!("KV_{REGISTRY}");
    match jetstream.get_stream(&name).await {
        Ok(stream) => return Ok(stream.cached_info().config.allow_message_ttl),
        Err(error) if is_not_found(&error.kind()) => {}
        Err(error) => return Err(passing(error.to_string())),
    }
    let ttl = parse_version(version) >= Some((2, 11, 0));
    let config = kv::Config {
        bucket: REGISTRY.to_owned(),
        description: "HarmonyLite nodes, their schemas and leases".to_owned(),
        history: 1,
        num_replicas: settings.replication_log.replicas,
        limit_markers: ttl.then_some(MARKER),
        ..kv::Config::default()
    };
    let Err(error) = jetstream.create_key_value(config.clone()).await else { return Ok(ttl) };
    let kind = stream_error(&error);
    let demands_size = |e: &CreateStreamErrorKind| {
        matches!(e, CreateStreamErrorKind::JetStream(e)
            if e.error_code() == ErrorCode::STREAM_MAX_BYTES_REQUIRED)
    };
    if kind.as_ref().is_some_and(demands_size) {
        let bounded = kv::Config { max_bytes: REGISTRY_BYTES_MAX, ..config };
        let Err(error) = jetstream.create_key_value(bounded).await else { return Ok(ttl) };
        return Err(bucket_error(&error));
    }
    Err(bucket_error(&error))
}

/// The error of the stream below a bucket that could not be created.
fn stream_error(error: &CreateKeyValueError) -> Option<CreateStreamErrorKind> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<CreateStreamError>().map(CreateStreamError::kind)
}

fn bucket_error(error: &CreateKeyValueError) -> LinkError {
    let text = format!("bucket {REGISTRY} cannot be created: {error}");
    match stream_error(error) {
        Some(kind) => not_created(&text, &kind),
        None => LinkError::Passing(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(is_new_enough("2.10.23") && is_new_enough("2.12.1-RC.3") && is_new_enough("3.0.0"));
        assert!(
            !is_new_enough("2.10.22")
                && !is_new_enough("2.9.30")
                && !is_new_enough("")
                && !is_new_enough("x.y.z")
        );
    }

    #[test]
    fn only_what_is_ours_counts_as_a_difference() {
        let settings = Settings::default();
        let wanted = stream_config(&settings, 2);
        let mut found = Config { max_consumers: 7, description: None, ..wanted.clone() };
        assert_eq!(differences(&found, &wanted), Vec::<String>::new());
        found.max_messages = 1024;
        assert_eq!(
            differences(&found, &wanted),
            ["max_entries is 1024, the configuration says 1000000"]
        );
        take_over(&mut found, &wanted);
        assert_eq!(differences(&found, &wanted), Vec::<String>::new());
    }
}
