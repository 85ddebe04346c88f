//! Looks at the broker as a node would at its start, and changes nothing there.
//!
//! Arrives: the settings. Leaves: findings for people, and the reasons for which a node would not
//! start. Owns: nothing is created or stored. A permission is tried by a request that the server
//! must refuse for another reason: a message behind an impossible fence, a consumer without a
//! configuration. No state.

use super::ask::{broker_now_ns, kv_get};
use super::connect::{LinkError, Target, connect};
use super::prepare::{REGISTRY, Session, read_only_session, stream_found};
use super::{peer_settings, wire};
use crate::broker::{KvEntry, Reply};
use crate::clock;
use crate::model::ids::NodeId;
use crate::settings::Settings;
use async_nats::header::{HeaderMap, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE};
use async_nats::{Client, Event};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// How long an answer to a tried permission may take.
const ANSWER: Duration = Duration::from_millis(500);

/// What is found at the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A node would end because of it, or does not replicate.
    Problem(LinkError),
    /// A node would run, but not as people may expect.
    Warning(String),
    /// Information.
    Note(String),
}

/// A connection that only looks.
pub struct Examination {
    session: Option<Session>,
    /// What was found, in the order of the start.
    pub findings: Vec<Finding>,
}

impl Examination {
    /// Connects and looks.
    pub async fn new(settings: &Settings, node: NodeId) -> Self {
        let mut examination = Self { session: None, findings: Vec::new() };
        if let Err(error) = examination.look(settings, node).await {
            examination.findings.push(match error {
                LinkError::Passing(text) => Finding::Warning(text),
                lasting => Finding::Problem(lasting),
            });
        }
        examination
    }

    /// Returns an entry of the registry; None if there is none, or it cannot be read.
    pub async fn entry(&self, key: &str) -> Option<KvEntry> {
        let Ok(Reply::Kv(entry)) = kv_get(self.session.as_ref()?, key).await else { return None };
        entry
    }

    async fn look(&mut self, settings: &Settings, node: NodeId) -> Result<(), LinkError> {
        let target = Target { urls: settings.nats.urls.clone(), access: None };
        let (events, mut happened) = unbounded_channel();
        let client = connect(settings, &target, events).await?;
        let looked = self.look_at_streams(&client, &target, settings, node).await;
        for refused in refused(&client, settings, node, &mut happened).await {
            self.findings.push(Finding::Problem(LinkError::Passing(format!(
                "the server refuses: {refused}"
            ))));
        }
        looked
    }

    async fn look_at_streams(
        &mut self,
        client: &Client,
        target: &Target,
        settings: &Settings,
        node: NodeId,
    ) -> Result<(), LinkError> {
        let session = read_only_session(client, settings).await?;
        let info = client.server_info();
        self.findings.push(Finding::Note(format!(
            "connected to {} (nats-server {}, {})",
            target.describe(),
            info.version,
            info.server_name
        )));
        let is_registered = session.jetstream.get_stream(format!("KV_{REGISTRY}")).await.is_ok();
        if is_registered {
            self.look_at_clock(&session, settings).await;
            peer_settings::check(&session, settings, node).await?;
        } else {
            let text = format!("the bucket {REGISTRY} does not exist yet: a node creates it");
            self.findings.push(Finding::Note(text));
        }
        for shard in 1..=settings.replication_log.shards {
            if !stream_found(&session.jetstream, settings, shard).await? {
                let name = wire::stream_name(&settings.nats.stream_prefix, shard);
                let text = format!("the stream {name} does not exist yet: a node creates it");
                self.findings.push(Finding::Note(text));
            }
        }
        self.session = Some(session);
        Ok(())
    }

    async fn look_at_clock(&mut self, session: &Session, settings: &Settings) {
        let Ok(broker_ns) = broker_now_ns(session).await else { return };
        let ahead_ms = (clock::unix_ns() - broker_ns) / 1_000_000;
        let seconds = ahead_ms / 1_000;
        self.findings.push(if ahead_ms.unsigned_abs() > settings.max_clock_drift.as_ms() {
            Finding::Warning(format!(
                "the clock of this machine differs from that of the broker by {seconds} s: the \
                write of the faster clock wins. Set both by NTP"
            ))
        } else {
            Finding::Note(format!("the clock agrees with that of the broker ({ahead_ms} ms)"))
        });
    }
}

/// Tries what a node has to be allowed. Returns the refusals of the server.
async fn refused(
    client: &Client,
    settings: &Settings,
    node: NodeId,
    happened: &mut UnboundedReceiver<Event>,
) -> BTreeSet<String> {
    let nats = &settings.nats;
    let api = match nats.js_domain.as_str() {
        "" => "$JS.API".to_owned(),
        domain => format!("$JS.{domain}.API"),
    };
    let mut headers = HeaderMap::new();
    // No stream is that long, so nothing is stored.
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, i64::MAX.to_string().as_str());
    let mut subjects = vec![format!("$KV.{REGISTRY}.node-{node}"), "$JS.FC.doctor".to_owned()];
    for shard in 1..=settings.replication_log.shards {
        let stream = wire::stream_name(&nats.stream_prefix, shard);
        subjects.push(wire::subject(&nats.subject_prefix, shard, node));
        subjects.push(format!("{api}.STREAM.MSG.GET.{stream}"));
        subjects.push(format!("{api}.CONSUMER.CREATE.{stream}"));
    }
    subjects.push(format!("{api}.STREAM.MSG.GET.KV_{REGISTRY}"));
    for subject in subjects {
        // An answer, if there is one, goes to an inbox that nobody reads.
        let inbox = client.new_inbox();
        let body = bytes::Bytes::from_static(b"{}");
        let headers = headers.clone();
        let _ = client.publish_with_reply_and_headers(subject, inbox, headers, body).await;
    }
    let signals = client.subscribe(wire::signal_subject(&nats.subject_prefix)).await;
    let inbox = client.subscribe(client.new_inbox()).await;
    let mut found = BTreeSet::new();
    let _ = client.flush().await;
    while let Ok(Some(event)) = tokio::time::timeout(ANSWER, happened.recv()).await {
        if let Event::ServerError(error) = event {
            found.insert(error.to_string());
        }
    }
    drop((signals, inbox));
    found
}
