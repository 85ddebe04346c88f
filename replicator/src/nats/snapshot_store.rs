//! A store for snapshots in a JetStream stream of its own.
//!
//! Arrives: objects. Leaves: messages of 128 KiB at most. The object `a/b.c` is a *head* message on
//! `<bucket>.h.a.b_c` (size and SHA-256 in its headers; a small object is its payload) and, if it
//! is larger, *pieces* on `<bucket>.p.a.b_c.<number>`. Owns: the head is written after all pieces
//! are acknowledged, so an object without a head does not exist, and what is read has the SHA-256
//! of the head. A stream keeps one message for each subject, so a repeated write replaces. A crash
//! leaves pieces without a head, which the next write of the same object replaces.

use super::ask::is_missing;
use super::connect::{LinkError, Target, connect};
use crate::settings::Settings;
use async_nats::header::HeaderMap;
use async_nats::jetstream::context::{GetStreamErrorKind, PublishError, PublishErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{
    Config, DirectGetErrorKind, DiscardPolicy, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{Context, ErrorCode};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use harmonylite_snapshot::Name;
use harmonylite_snapshot::store::{Entry, Store, StoreError, StoreErrorKind};
use sha2::{Digest as _, Sha256};
use std::ops::Range;
use std::time::Duration;
use tokio::sync::OnceCell;

/// Bytes of a piece: a fraction of the smallest usual `max_payload`.
const PIECE_BYTES: usize = 128 << 10;
/// Pieces that are on their way at the same time.
const WINDOW: usize = 16;
/// How long one request of JetStream may take.
const REQUEST: Duration = Duration::from_secs(10);
const BYTES: &str = "Harmonylite-Bytes";
const SHA256: &str = "Harmonylite-Sha256";

/// Objects in a bucket of the broker.
pub struct NatsStore {
    jetstream: Context,
    bucket: String,
    replicas: usize,
    url: String,
    stream: OnceCell<Stream<()>>,
}

impl NatsStore {
    /// Connects. The bucket is created by the first object.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn open(settings: &Settings, target: &Target) -> Result<Self, LinkError> {
        // Nobody looks at the events: requests fail instead.
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        let client = connect(settings, target, events).await?;
        let mut jetstream = async_nats::jetstream::new(client);
        jetstream.set_timeout(REQUEST);
        Ok(Self {
            jetstream,
            bucket: settings.snapshot_bucket(),
            replicas: settings.snapshot.nats.replicas,
            url: target.describe(),
            stream: OnceCell::new(),
        })
    }

    /// Returns the stream; creates it if need be.
    async fn stream(&self) -> Result<&Stream<()>, StoreError> {
        self.stream
            .get_or_try_init(|| async {
                if !self.exists().await? {
                    let created = self.jetstream.create_stream(self.config()).await;
                    created.map_err(passing)?;
                }
                self.jetstream.get_stream_no_info(&self.bucket).await.map_err(passing)
            })
            .await
    }

    /// Returns the stream, if it exists. A reader creates nothing.
    async fn existing(&self) -> Result<Option<&Stream<()>>, StoreError> {
        if !self.stream.initialized() && !self.exists().await? {
            return Ok(None);
        }
        self.stream().await.map(Some)
    }

    async fn exists(&self) -> Result<bool, StoreError> {
        match self.jetstream.get_stream(&self.bucket).await {
            Ok(_) => Ok(true),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(e)
                    if e.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    Ok(false)
                }
                _ => Err(passing(error)),
            },
        }
    }

    fn config(&self) -> Config {
        Config {
            name: self.bucket.clone(),
            description: Some("HarmonyLite snapshots".to_owned()),
            subjects: vec![format!("{}.>", self.bucket)],
            max_messages_per_subject: 1,
            num_replicas: self.replicas,
            storage: StorageType::File,
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            allow_direct: true,
            ..Config::default()
        }
    }

    fn head(&self, name: &Name) -> String {
        format!("{}.h.{}", self.bucket, tokens(name.as_str()))
    }

    fn piece(&self, name: &Name, number: impl std::fmt::Display) -> String {
        format!("{}.p.{}.{number}", self.bucket, tokens(name.as_str()))
    }

    async fn publish(
        &self,
        subject: String,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(), StoreError> {
        let sent = self.jetstream.publish_with_headers(subject, headers, body).await;
        sent.map_err(refused)?.await.map_err(refused)?;
        Ok(())
    }

    async fn read_piece(&self, name: &Name, number: u64) -> Result<Bytes, StoreError> {
        let (stream, subject) = (self.stream().await?, self.piece(name, number));
        match stream.direct_get_last_for_subject(subject.as_str()).await {
            Ok(found) => Ok(found.payload),
            // A replica may lag behind its leader, which is asked then.
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => {
                let found = last(stream, &subject).await?;
                found.map(|found| found.payload).ok_or_else(|| {
                    let reason = format!("piece {number} is missing");
                    StoreError::new(StoreErrorKind::Lasting, reason)
                })
            }
            Err(error) => Err(passing(error)),
        }
    }
}

#[async_trait]
impl Store for NatsStore {
    fn place(&self) -> String {
        format!("NATS bucket {} at {}", self.bucket, self.url)
    }

    async fn put(&self, name: &Name, body: Bytes) -> Result<(), StoreError> {
        self.stream().await?;
        let mut headers = HeaderMap::new();
        headers.insert(BYTES, body.len().to_string().as_str());
        headers.insert(SHA256, HEXLOWER.encode(&Sha256::digest(&body)).as_str());
        if body.len() <= PIECE_BYTES {
            return self.publish(self.head(name), headers, body).await;
        }
        let pieces = body.len().div_ceil(PIECE_BYTES);
        let piece = |number: usize| {
            let end = body.len().min((number + 1) * PIECE_BYTES);
            let part = body.slice(number * PIECE_BYTES..end);
            self.publish(self.piece(name, number), HeaderMap::new(), part)
        };
        stream::iter(0..pieces).map(piece).buffer_unordered(WINDOW).try_collect::<()>().await?;
        self.publish(self.head(name), headers, Bytes::new()).await
    }

    async fn get(
        &self,
        name: &Name,
        range: Option<Range<u64>>,
        bytes_max: usize,
    ) -> Result<Bytes, StoreError> {
        let found = match self.existing().await? {
            Some(stream) => last(stream, &self.head(name)).await?,
            None => None,
        };
        let head = found.ok_or_else(|| {
            StoreError::new(StoreErrorKind::NotFound, "there is no such object in the bucket")
        })?;
        let (bytes, sha256) = announced(&head)?;
        let whole = range.is_none();
        let range = range.unwrap_or(0..bytes);
        let range = range.start.min(bytes)..range.end.min(bytes);
        let length = range.end.saturating_sub(range.start);
        if length > bytes_max as u64 {
            let reason = format!("it has {length} bytes, more than {bytes_max}");
            return Err(StoreError::new(StoreErrorKind::TooLarge, reason));
        }
        let body = if bytes <= PIECE_BYTES as u64 {
            head.payload.get(range.start as usize..range.end as usize).map(Bytes::copy_from_slice)
        } else {
            Some(self.read_pieces(name, &range).await?)
        };
        let damaged = |reason: &str| StoreError::new(StoreErrorKind::Lasting, reason);
        let body = body.ok_or_else(|| damaged("it is shorter than announced"))?;
        if whole && HEXLOWER.encode(&Sha256::digest(&body)) != sha256 {
            return Err(damaged("its content has another SHA-256 than announced"));
        }
        Ok(body)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let heads = format!("{}.h.", self.bucket);
        let filter = match folder {
            "" => format!("{heads}>"),
            folder => format!("{heads}{}.>", tokens(folder)),
        };
        let Some(stream) = self.existing().await? else { return Ok(Vec::new()) };
        let mut subjects = stream.info_with_subjects(filter).await.map_err(passing)?;
        let mut found = Vec::new();
        while let Some(subject) = subjects.next().await {
            let (subject, _) = subject.map_err(passing)?;
            let name = subject.strip_prefix(&heads).map(name_of).and_then(Name::new);
            let name = name.filter(|name| name.as_str().starts_with(prefix));
            found.extend(name.map(|name| Entry { name, bytes: None }));
        }
        Ok(found)
    }

    async fn delete(&self, name: &Name) -> Result<(), StoreError> {
        let Some(stream) = self.existing().await? else { return Ok(()) };
        for subject in [self.head(name), self.piece(name, "*")] {
            stream.purge().filter(subject).await.map_err(passing)?;
        }
        Ok(())
    }
}

impl NatsStore {
    /// Reads the pieces that a range touches.
    async fn read_pieces(&self, name: &Name, range: &Range<u64>) -> Result<Bytes, StoreError> {
        let size = PIECE_BYTES as u64;
        let (first, end) = (range.start / size, range.end.div_ceil(size));
        let length = (range.end - range.start) as usize;
        let mut skip = (range.start - first * size) as usize;
        let mut body = BytesMut::with_capacity(length);
        let mut pieces =
            stream::iter(first..end).map(|number| self.read_piece(name, number)).buffered(WINDOW);
        while let Some(piece) = pieces.try_next().await? {
            let left = length - body.len();
            let part = piece.get(skip..).unwrap_or_default();
            body.extend_from_slice(&part[..part.len().min(left)]);
            skip = 0;
        }
        Ok(body.freeze())
    }
}

/// The tokens of a subject for a name, which has no `_`.
fn tokens(name: &str) -> String {
    name.replace('.', "_").replace('/', ".")
}

fn name_of(tokens: &str) -> String {
    tokens.replace('.', "/").replace('_', ".")
}

fn announced(head: &StreamMessage) -> Result<(u64, String), StoreError> {
    let header = |name| head.headers.get(name).map(ToString::to_string);
    let bytes = header(BYTES).and_then(|text| text.parse().ok());
    bytes.zip(header(SHA256)).ok_or_else(|| {
        StoreError::new(StoreErrorKind::Lasting, "a message there was not written by harmonylite")
    })
}

/// The newest message of a subject, from the stream's leader.
async fn last(stream: &Stream<()>, subject: &str) -> Result<Option<StreamMessage>, StoreError> {
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(passing(error)),
    }
}

fn passing(error: impl std::error::Error) -> StoreError {
    let reason = error.source().map_or_else(|| error.to_string(), |s| format!("{error}: {s}"));
    StoreError::new(StoreErrorKind::Passing, reason)
}

fn refused(error: PublishError) -> StoreError {
    let text = passing(&error).reason;
    let kind = match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => StoreErrorKind::Lasting,
        _ if text.contains("insufficient resources") || text.contains("maximum bytes") => {
            StoreErrorKind::Full
        }
        _ => StoreErrorKind::Passing,
    };
    StoreError::new(kind, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_by_its_subject() {
        for name in ["chunk/ab/ab12", "manifest/20261128T150000.123Z-00.json", "saving/7-1"] {
            let subject = tokens(name);
            assert!(!subject.contains('/'));
            assert_eq!(name_of(&subject), name);
        }
    }
}
