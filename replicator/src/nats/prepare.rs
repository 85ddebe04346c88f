//! Prepares a new connection: checks the server, creates the streams and the registry bucket.
//!
//! Arrives: a connected client. Leaves: a [`Session`], or the failure. Owns: an existing stream or
//! bucket is never changed without `update_existing`. Runs on every connection; after a crash here
//! the next one finds the streams.

use super::connect::LinkError;
use super::wire;
use crate::embedded::{VERSION_MIN, parse_version};
use crate::settings::Settings;
use async_nats::Client;
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode, context::AccountErrorKind, kv};
use std::time::Duration;

/// The bucket of registry entries and leases.
pub(super) const REGISTRY: &str = "harmonylite-schema-registry";
/// How long the marker of an expired lease stays.
const MARKER: Duration = Duration::from_secs(60);
/// How long a request waits for its answer.
const REQUEST: Duration = Duration::from_secs(5);
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
}

/// Checks the server, then finds or creates the streams and the bucket. `attempts` is the number of
/// failed attempts on this connection.
///
/// # Errors
/// [`LinkError`], which tells whether the failure may pass.
pub(super) async fn prepare(
    client: &Client,
    settings: &Settings,
    attempts: u32,
) -> Result<Session, LinkError> {
    let connects = client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
    let info = client.server_info();
    if !is_new_enough(&info.version) {
        return Err(LinkError::Lasting(format!(
            "the NATS server {} has version {}; {}.{}.{} or later is needed: upgrade it",
            info.server_name, info.version, VERSION_MIN.0, VERSION_MIN.1, VERSION_MIN.2
        )));
    }
    let mut jetstream = async_nats::jetstream::new(client.clone());
    jetstream.set_timeout((REQUEST_MIN * 2_u32.pow(attempts.min(4))).min(REQUEST));
    check_jetstream(&jetstream, info.jetstream, &info.server_name).await?;
    for shard in 1..=settings.replication_log.shards {
        ensure_stream(&jetstream, settings, shard).await?;
    }
    let ttl = ensure_registry(&jetstream, settings, &info.version).await?;
    jetstream.set_timeout(REQUEST);
    Ok(Session { client: client.clone(), jetstream, ttl, connects })
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

async fn ensure_stream(
    jetstream: &Context,
    settings: &Settings,
    shard: u32,
) -> Result<(), LinkError> {
    let wanted = stream_config(settings, shard);
    match jetstream.get_stream(&wanted.name).await {
        Ok(stream) => {
            let differences = differences(&stream.cached_info().config, &wanted);
            if differences.is_empty() {
                return Ok(());
            }
            if settings.replication_log.update_existing {
                // Change only our own settings, and keep the server's values of the others.
                let mut changed = stream.cached_info().config.clone();
                take_over(&mut changed, &wanted);
                jetstream.update_stream(&changed).await.map_err(|error| {
                    LinkError::Lasting(format!(
                        "stream {} cannot be changed ({}): {error}",
                        wanted.name,
                        differences.join(", ")
                    ))
                })?;
                tracing::info!(
                    stream = wanted.name,
                    changed = differences.join(", "),
                    "changed the stream (update_existing)"
                );
                return Ok(());
            }
            Err(LinkError::Lasting(format!(
                "stream {} exists with another configuration ({}): give [replication_log] the \
                same values on all nodes, or set update_existing = true on one",
                wanted.name,
                differences.join(", ")
            )))
        }
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                create_stream(jetstream, wanted).await
            }
            _ => {
                Err(LinkError::Passing(format!("stream {} does not answer: {error}", wanted.name)))
            }
        },
    }
}

async fn create_stream(jetstream: &Context, wanted: Config) -> Result<(), LinkError> {
    let name = wanted.name.clone();
    let Err(error) = jetstream.create_stream(wanted).await else {
        tracing::info!(stream = name, "created the stream");
        return Ok(());
    };
    let text = format!("stream {name} cannot be created: {error}");
    let lasting = match error.kind() {
        // Another node may have created it a moment ago, or the cluster is incomplete: retry.
        CreateStreamErrorKind::JetStream(e) => matches!(
            e.error_code(),
            ErrorCode::STORAGE_RESOURCES_EXCEEDED
                | ErrorCode::STREAM_SUBJECT_OVERLAP
                | ErrorCode::STREAM_INVALID_CONFIG
                | ErrorCode::MAXIMUM_STREAMS_LIMIT
                | ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED
        ),
        CreateStreamErrorKind::InvalidStreamName => true,
        _ => false,
    };
    Err(if lasting {
        LinkError::Lasting(format!(
            "{text}: check [replication_log] (max_bytes against the server's storage, the \
            prefixes against other streams)"
        ))
    } else {
        LinkError::Passing(text)
    })
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
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
            _ => return Err(passing(error.to_string())),
        },
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
    jetstream.create_key_value(config).await.map_err(|error| passing(error.to_string()))?;
    Ok(ttl)
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
