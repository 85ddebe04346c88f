//! Saves snapshots when they are due, and proves the newest one, while this node leads.
//!
//! Arrives: leadership, the streams, the store. Leaves: snapshots, and errors with what to do.
//! Owns: a failed save is tried again, later each time, and replaces nothing; a snapshot counts as
//! verified only after it was restored and checked. Memory only: a restarted leader reads the
//! store.

use super::super::writer::flush;
use super::working::shown;
use super::{Shared, lead};
use crate::broker::BrokerError;
use crate::clock;
use crate::settings::{Settings, StoreSettings};
use crate::snapshots::due::{Bounds, Newest, Reason, Stream, due};
use crate::snapshots::wanted::{WANTED_KEY, Wanted};
use crate::snapshots::{PlaceError, SaveError, SaveRequest, save_and_prune};
use futures_util::FutureExt as _;
use harmonylite_snapshot::SnapshotError;
use harmonylite_snapshot::catalog::{self, Found};
use harmonylite_snapshot::manifest::Manifest;
use harmonylite_snapshot::progress::Progress;
use harmonylite_snapshot::save::Saved;
use harmonylite_snapshot::store::Retrying;
use harmonylite_snapshot::verify::verify;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The longest time between two looks at the streams.
const LOOK_MS_MAX: u64 = 10_000;
/// The shortest one.
const LOOK_MS_MIN: u64 = 100;
/// The newest snapshot of the store is read again after this time: commands save too.
const READ_AGAIN_MS: u64 = 60_000;
/// And after this time while it has none: whoever saves the first one looks at `status` next.
const READ_FIRST_MS: u64 = 10_000;
/// The wait after the first failure. It doubles.
const RETRY_MS: u64 = 2_000;
/// The longest wait after a failure.
const RETRY_MS_MAX: u64 = 600_000;

/// Why a work failed: what happened, and what a person can do.
struct Failed {
    text: String,
    /// The content of the store is damaged: send all of it again.
    damaged: bool,
}

impl From<SnapshotError> for Failed {
    fn from(error: SnapshotError) -> Self {
        let damaged = matches!(
            error,
            SnapshotError::MissingChunk { .. } | SnapshotError::CorruptChunk { .. }
        );
        Self { text: format!("{error}: {}", error.hint()), damaged }
    }
}

impl From<SaveError> for Failed {
    fn from(error: SaveError) -> Self {
        match error {
            SaveError::Snapshot(error) => error.into(),
            error => Self { text: format!("{error}: {}", error.hint()), damaged: false },
        }
    }
}

impl From<PlaceError> for Failed {
    fn from(error: PlaceError) -> Self {
        Self { text: format!("{error}: check [snapshot] and the store"), damaged: false }
    }
}

impl From<BrokerError> for Failed {
    fn from(error: BrokerError) -> Self {
        Self { text: format!("{error}: see the state of the broker"), damaged: false }
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        let text = format!(
            "cannot create a scratch directory beside the database: {error}: check its \
            permissions and the free space"
        );
        Self { text, damaged: false }
    }
}

/// Works while this node leads.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut leads = shared.leads.subscribe();
    loop {
        // The sender is in `shared`.
        if leads.wait_for(|leads: &bool| *leads).await.is_err() {
            return;
        }
        let mut keeper = Keeper::new(Arc::clone(&shared));
        while *leads.borrow_and_update() {
            let wait = keeper.round().await;
            let _ = tokio::time::timeout(wait, leads.changed()).await;
        }
        // What failed here is now for another node to do.
        shared.seen.send_modify(|seen| {
            seen.save_error.clear();
            seen.verify_error.clear();
        });
    }
}

/// The failures of one work, and when it is tried again.
#[derive(Debug, Default)]
struct Attempts {
    failed: u32,
    not_before_ms: u64,
}

impl Attempts {
    fn may_begin(&self) -> bool {
        clock::mono_ms() >= self.not_before_ms
    }

    fn failed(&mut self) {
        let wait_ms = (RETRY_MS << self.failed.min(20)).min(RETRY_MS_MAX);
        (self.failed, self.not_before_ms) = (self.failed + 1, clock::mono_ms() + wait_ms);
    }

    fn succeeded(&mut self) {
        *self = Self::default();
    }
}

struct Keeper {
    shared: Arc<Shared>,
    newest: Option<Newest>,
    /// When `newest` was read, on the monotone clock; None: never.
    read_ms: Option<u64>,
    saves: Attempts,
    checks: Attempts,
    /// A chunk in the store is damaged.
    resend: bool,
    /// The further stores that do not have the newest snapshot yet.
    behind: Vec<StoreSettings>,
}

impl Keeper {
    fn new(shared: Arc<Shared>) -> Self {
        let (saves, checks) = Default::default();
        let behind = Vec::new();
        Self { shared, newest: None, read_ms: None, saves, checks, resend: false, behind }
    }

    fn settings(&self) -> &Settings {
        &self.shared.sources.settings
    }

    /// Saves and verifies if that is due. Returns the wait until the next look.
    async fn round(&mut self) -> Duration {
        if self.saves.may_begin() {
            let saved = self.save_if_due().await;
            let failed = saved.err().map(|failed| failed.text);
            if let Some(error) = &failed {
                tracing::warn!(error, "no snapshot could be saved; trying again");
                self.saves.failed();
            } else {
                self.saves.succeeded();
            }
            let text = failed.unwrap_or_default();
            self.shared.seen.send_modify(|seen| seen.save_error = text);
        }
        if self.checks.may_begin() {
            let checked = self.verify_if_due().await;
            if let Err(failed) = checked {
                tracing::error!(error = failed.text, "the newest snapshot is not verified");
                self.resend |= failed.damaged;
                self.checks.failed();
                self.shared.seen.send_modify(|seen| seen.verify_error = failed.text);
            }
        }
        let interval_ms = self.settings().snapshot.interval;
        let look_ms = if interval_ms == 0 { LOOK_MS_MAX } else { interval_ms / 10 };
        Duration::from_millis(look_ms.clamp(LOOK_MS_MIN, LOOK_MS_MAX))
    }

    async fn save_if_due(&mut self) -> Result<(), Failed> {
        let again_ms = if self.newest.is_none() { READ_FIRST_MS } else { READ_AGAIN_MS };
        let is_known =
            self.read_ms.is_some_and(|at| clock::mono_ms().saturating_sub(at) < again_ms);
        if !is_known {
            match self.read_newest().await {
                // Nobody may want snapshots, and the access to the store be missing.
                Err(failed) if self.settings().snapshot.interval == 0 => {
                    tracing::debug!(error = failed.text, "the store of snapshots is not read");
                    self.read_ms = Some(clock::mono_ms());
                }
                read => read?,
            }
        }
        let reason = match self.resend {
            true => Some("a chunk in the store is missing or damaged"),
            false => self.due().await?.map(Reason::text),
        };
        if reason.is_none() && self.behind.is_empty() {
            return Ok(());
        }
        // Between the look at the lease and this moment the node may have fallen behind.
        if !*self.shared.leads.borrow() || self.shared.guard.check().is_err() {
            return Ok(());
        }
        if let Some(reason) = reason {
            self.save(reason).await?;
            self.behind = self.settings().snapshot.stores().split_off(1);
        }
        self.save_also().await
    }

    /// Saves into the further stores that lack the newest snapshot. One that fails is named, and
    /// does not keep the others from theirs.
    async fn save_also(&mut self) -> Result<(), Failed> {
        let mut failures = Vec::new();
        for store in std::mem::take(&mut self.behind) {
            let saved = self.save_in(&store, "as in the first store", false).await;
            if let Err(failed) = saved {
                failures.push(format!("store {}: {}", store.name, failed.text));
                self.behind.push(store);
            }
        }
        match failures.is_empty() {
            true => Ok(()),
            false => Err(Failed { text: failures.join("; "), damaged: false }),
        }
    }

    async fn read_newest(&mut self) -> Result<(), Failed> {
        let place = self.shared.place().await?;
        let newest = newest(&place.store).await?;
        let is_news = self.read_ms.is_none() || self.newest != newest;
        self.know(newest, place.store.place());
        if is_news {
            lead::report(&self.shared).await;
        }
        Ok(())
    }

    async fn due(&self) -> Result<Option<Reason>, Failed> {
        let settings = self.settings();
        let log = &settings.replication_log;
        let bounds = Bounds {
            interval_ms: i64::try_from(settings.snapshot.interval).unwrap_or(i64::MAX),
            entries_max: u64::try_from(log.max_entries).unwrap_or(0),
            bytes_max: u64::try_from(log.max_bytes).unwrap_or(0),
            age_ms_max: i64::try_from(log.max_age.as_ms()).unwrap_or(i64::MAX),
        };
        let (mut streams, mut made) = (Vec::new(), HashMap::new());
        for shard in 1..=log.shards {
            let newest = self.newest.iter().flat_map(|newest| &newest.streams);
            let covered = newest.filter(|s| s.shard == shard).map(|s| (s.seq, s.created_ns)).next();
            let usage = self.shared.asker.stream_usage(shard, covered).await?;
            made.insert(shard, usage.created_ns);
            streams.push(Stream {
                messages: usage.messages,
                bytes: usage.bytes,
                uncovered: usage.next.map_or(0, |(next, _)| usage.last + 1 - next),
                oldest_ms: usage.next.map(|(_, time_ms)| time_ms),
            });
        }
        let (newest, now_ms) = (self.newest.as_ref(), clock::unix_ms());
        if let Some(reason) = due(newest, &streams, bounds, now_ms) {
            return Ok(Some(reason));
        }
        let entry = lead::get(&self.shared, WANTED_KEY).await?;
        let Some(mut wanted) = Wanted::read(entry.as_ref()) else { return Ok(None) };
        // Another stream of that name: no snapshot would have it.
        wanted.streams.retain(|s| made.get(&s.shard) == Some(&s.created_ns));
        Ok(wanted.is_due(newest, now_ms).then_some(Reason::Asked))
    }

    /// Saves into the first store.
    async fn save(&mut self, reason: &str) -> Result<(), Failed> {
        let store = self.settings().snapshot.stores().swap_remove(0);
        let (saved, place) = self.save_in(&store, reason, self.resend).await?;
        self.resend = false;
        self.know(Some(described(saved.id.to_string(), saved.manifest)), place);
        lead::report(&self.shared).await;
        Ok(())
    }

    async fn save_in(
        &self,
        store: &StoreSettings,
        reason: &str,
        resend: bool,
    ) -> Result<(Saved, String), Failed> {
        flush(&self.shared.writer, self.shared.sources.writer.clone()).await;
        let request = SaveRequest {
            path: self.shared.database().to_owned(),
            scratch: self.shared.scratch()?,
            keep: self.settings().snapshot.keep,
            resend,
        };
        let place = self.shared.place_at(store).await?;
        let progress = Arc::<Progress>::default();
        let saved = save_and_prune(request, &place.store, &progress).boxed();
        let (saved, _) =
            shown(&self.shared, ("saving a snapshot", &store.name), &progress, saved).await?;
        tracing::info!(
            snapshot = %saved.id,
            place = place.store.place(),
            bytes = saved.manifest.bytes(),
            sent_bytes = saved.sent_bytes,
            reason,
            "saved a snapshot"
        );
        Ok((saved, place.store.place()))
    }

    fn know(&mut self, newest: Option<Newest>, place: String) {
        self.shared.seen.send_modify(|seen| {
            seen.place = place;
            (seen.saved, seen.saved_ms) =
                newest.as_ref().map_or((String::new(), 0), |n| (n.id.clone(), n.created_ms));
        });
        (self.newest, self.read_ms) = (newest, Some(clock::mono_ms()));
    }

    /// Restores the newest snapshot into a scratch file and checks it, if that is due: there is
    /// none that was checked, or the last check is `verify_interval` ago.
    async fn verify_if_due(&mut self) -> Result<(), Failed> {
        let every_ms = i64::try_from(self.settings().snapshot.verify_interval.as_ms());
        let every_ms = every_ms.unwrap_or(i64::MAX);
        let (checked_ms, failed) = {
            let seen = self.shared.seen.borrow();
            let checked_ms = if seen.verified.is_empty() { 0 } else { seen.checked_ms };
            (checked_ms, !seen.verify_error.is_empty())
        };
        let is_due = failed || checked_ms == 0 || clock::unix_ms() - checked_ms >= every_ms;
        if every_ms == 0 || self.newest.is_none() || self.resend || !is_due {
            return Ok(());
        }
        let place = self.shared.place().await?;
        let found = match catalog::find(&place.store, None).await {
            Err(SnapshotError::None { .. }) => return Ok(()),
            found => found?,
        };
        self.check(&place.store, &found).await?;
        self.checks.succeeded();
        self.shared.seen.send_modify(|seen| {
            (seen.verified, seen.verified_ms) = (found.id.to_string(), found.manifest.created_ms);
            seen.checked_ms = clock::unix_ms();
            seen.verify_error.clear();
        });
        lead::report(&self.shared).await;
        Ok(())
    }

    async fn check(&self, store: &Retrying, found: &Found) -> Result<(), Failed> {
        let scratch = self.shared.scratch()?;
        let (name, progress) = (self.shared.first_store(), Arc::<Progress>::default());
        let checked = verify(store, found, &scratch, &progress).boxed();
        let what = ("verifying a snapshot", name.as_str());
        let checked = shown(&self.shared, what, &progress, checked).await?;
        tracing::info!(
            snapshot = %found.id,
            tables = checked.tables,
            rows = checked.rows,
            "verified a snapshot: restored, integrity_check, digest and row counts are right"
        );
        Ok(())
    }
}

/// Returns the newest snapshot of the store whose manifest can be used.
async fn newest(store: &Retrying) -> Result<Option<Newest>, SnapshotError> {
    for id in catalog::ids(store).await? {
        match catalog::read(store, &id).await {
            Ok(manifest) => return Ok(Some(described(id.to_string(), manifest))),
            Err(error @ SnapshotError::Store { .. }) => return Err(error),
            Err(error) => tracing::warn!(snapshot = %id, %error, "this snapshot cannot be used"),
        }
    }
    Ok(None)
}

fn described(id: String, manifest: Manifest) -> Newest {
    Newest { id, created_ms: manifest.created_ms, streams: manifest.facts.streams }
}
