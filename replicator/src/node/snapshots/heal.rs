//! Fills gaps of this node from a snapshot.
//!
//! Arrives: open gaps, which the writer shows. Leaves: the rows of a snapshot that has what is
//! missing, batch by batch, and then the end of the gaps; or word that there is none, so that the
//! other nodes are asked. Owns: the application's connections stay valid and its changes stay,
//! because rows are merged by their versions like those of any node. The writer gets one small
//! batch at a time. A crash leaves the scratch directory and the gaps: the next start
//! begins again.

use super::super::writer::WriterSnapshot;
use super::Shared;
use super::lead::put;
use super::working::{Meter, done, shown};
use crate::clock;
use crate::inbound::{FromSnapshot, Input};
use crate::repair::gaps::OpenGap;
use crate::snapshots::PlaceError;
use crate::snapshots::rows::{Contents, RowBatch, RowsError, SnapshotRows};
use crate::snapshots::wanted::{WANTED_KEY, WANTED_MS, Wanted};
use crate::store::gaps::GapKey;
use futures_util::FutureExt as _;
use harmonylite_snapshot::SnapshotError;
use harmonylite_snapshot::catalog::{self, Found};
use harmonylite_snapshot::manifest::{Manifest, SnapshotId};
use harmonylite_snapshot::progress::Progress;
use harmonylite_snapshot::restore::{Fetched, fetch};
use harmonylite_snapshot::store::Retrying;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// After each batch the writer rests for as long as the batch took, within these bounds: an
/// application that waits for the write lock looks for it at intervals, and must find it free.
const REST_MS: std::ops::RangeInclusive<u64> = 2..=200;
/// Batches that wait for the writer.
const WAITING: usize = 2;
/// Snapshots that are looked at.
const LOOKED_AT: usize = 10;
/// A gap that no snapshot fills is looked at again after this time.
const AGAIN: Duration = Duration::from_secs(60);
/// A snapshot is asked for at most once in this time.
const ASK_AGAIN_MS: u64 = 50_000;
/// A writer that merges nothing for this long is busy or has no connection: the merge is given up.
const STUCK: Duration = Duration::from_secs(100);

/// Why no snapshot fills the gaps.
#[derive(Debug, thiserror::Error)]
enum HealError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Rows(#[from] RowsError),
    #[error("cannot create a scratch directory beside the database: {0}")]
    Scratch(#[from] std::io::Error),
    #[error("its rows cannot be applied here: {0}")]
    Refused(String),
    #[error("the database took none of its rows for {} s", STUCK.as_secs())]
    Stuck,
    #[error("the node ends")]
    Ends,
}

/// Fills gaps as they open.
pub(super) async fn heal(shared: Arc<Shared>) {
    let mut writer = shared.sources.writer.clone();
    let (mut unfit, mut asked_ms) = (Unfit::default(), None);
    loop {
        if writer.borrow().open_gaps.is_empty() {
            shared.seen.send_modify(|seen| seen.wanted = false);
        }
        let is_open = |seen: &WriterSnapshot| !seen.open_gaps.is_empty();
        let gaps = match writer.wait_for(is_open).await {
            Ok(seen) => seen.open_gaps.clone(),
            Err(_) => return,
        };
        match fill(&shared, &gaps, &mut unfit).await {
            Ok(Some(filled)) => {
                // The writer closes them with its next transaction.
                let is_closed = |seen: &WriterSnapshot| {
                    !seen.open_gaps.iter().any(|gap| filled.contains(&gap.key))
                };
                let _ = tokio::time::timeout(AGAIN, writer.wait_for(is_closed)).await;
                continue;
            }
            Ok(None) => {
                tracing::info!("no snapshot has what is missing here: other nodes are asked");
                if asked_ms.is_none_or(|at| clock::mono_ms() >= at + ASK_AGAIN_MS) {
                    asked_ms = Some(clock::mono_ms());
                    want(&shared, &gaps, unfit.of(&gaps)).await;
                }
                shared.send(Input::Snapshot(FromSnapshot::None));
            }
            Err(error) => {
                tracing::warn!(%error, "a snapshot does not fill the gap; other nodes are asked");
                shared.send(Input::Snapshot(FromSnapshot::None));
            }
        }
        let changed = writer.wait_for(|seen: &WriterSnapshot| seen.open_gaps != gaps);
        let _ = tokio::time::timeout(AGAIN, changed).await;
    }
}

/// Asks the node that takes the snapshots for one that has what is missing here.
async fn want(shared: &Shared, gaps: &[OpenGap], unfit: &[SnapshotId]) {
    let wanted = Wanted::of(shared.sources.node.0, gaps, unfit, clock::unix_ms());
    match put(shared, WANTED_KEY, wanted.value(), None, Some(WANTED_MS)).await {
        Ok(_) => shared.seen.send_modify(|seen| seen.wanted = true),
        Err(error) => tracing::debug!(%error, "nobody is asked for a snapshot yet"),
    }
}

/// The snapshots that did not fill these gaps, although their manifests promised it.
#[derive(Default)]
struct Unfit {
    gaps: Vec<OpenGap>,
    ids: Vec<SnapshotId>,
}

impl Unfit {
    fn of(&mut self, gaps: &[OpenGap]) -> &mut Vec<SnapshotId> {
        if self.gaps != gaps {
            *self = Self { gaps: gaps.to_vec(), ids: Vec::new() };
        }
        &mut self.ids
    }
}

/// Merges the newest snapshot that has what is missing. Returns the gaps that it fills; None if
/// there is none.
async fn fill(
    shared: &Arc<Shared>,
    all: &[OpenGap],
    unfit: &mut Unfit,
) -> Result<Option<Vec<GapKey>>, HealError> {
    let place = shared.place().await?;
    let unfit = unfit.of(all);
    let fitting = fitting(shared, &place.store, all, unfit).await?;
    let Some((found, gaps)) = fitting else { return Ok(None) };
    let attempt = clock::mono_ms();
    shared.send(Input::Snapshot(FromSnapshot::Reading(attempt)));
    tracing::info!(
        snapshot = %found.id,
        place = place.store.place(),
        bytes = found.manifest.bytes(),
        "messages are missing that this snapshot has; merging its rows"
    );
    let scratch = shared.scratch()?;
    let (name, progress) = (shared.first_store(), Arc::<Progress>::default());
    let fetched = fetch(&place.store, &found, &scratch, &progress).boxed();
    let what = ("fetching a snapshot that fills a gap", name.as_str());
    let fetched = shown(shared, what, &progress, reading(shared, fetched, attempt)).await?;
    let meter = Meter::begin("merging a snapshot", &name, "rows");
    let merged = merge(shared, fetched, gaps, (attempt, meter, versions(&found.manifest))).await;
    done(shared, "merging a snapshot");
    if matches!(merged, Err(HealError::Rows(RowsError::Unfit(_)))) {
        unfit.push(found.id.clone());
    }
    let (rows, contents) = merged?;
    // More may have been found missing meanwhile, which it has too.
    let open = shared.sources.writer.borrow().open_gaps.clone();
    let filled = open.iter().filter(|gap| contents.lacks(gap).is_none());
    let keys: Vec<GapKey> = filled.map(|gap| gap.key).collect();
    let (origins, unpublished_ms) = (contents.origins, contents.unpublished_ms);
    let covers = FromSnapshot::Covers { gaps: keys.clone(), origins, unpublished_ms };
    shared.send(Input::Snapshot(covers));
    tracing::info!(snapshot = %found.id, rows, "merged the rows of a snapshot; the gap is filled");
    Ok(Some(keys))
}

/// Waits for a fetch, and shows the writer that it goes on.
async fn reading(
    shared: &Shared,
    mut fetched: impl Future<Output = Result<Fetched, SnapshotError>> + Unpin,
    attempt: u64,
) -> Result<Fetched, HealError> {
    loop {
        match tokio::time::timeout(Duration::from_secs(30), &mut fetched).await {
            Ok(fetched) => return Ok(fetched?),
            Err(_) => shared.send(Input::Snapshot(FromSnapshot::Reading(attempt))),
        }
    }
}

/// Returns the newest snapshot that fills any of these gaps, and those that it fills.
async fn fitting(
    shared: &Shared,
    store: &Retrying,
    gaps: &[OpenGap],
    unfit: &[SnapshotId],
) -> Result<Option<(Found, Vec<OpenGap>)>, SnapshotError> {
    let ids = catalog::ids(store).await?;
    for (index, id) in ids.iter().take(LOOKED_AT).enumerate() {
        if unfit.contains(id) {
            continue;
        }
        let manifest = match catalog::read(store, id).await {
            Err(error @ SnapshotError::Store { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(snapshot = %id, %error, "this snapshot cannot be used");
                continue;
            }
            Ok(manifest) => manifest,
        };
        let age_ms = clock::unix_ms().saturating_sub(manifest.created_ms);
        if age_ms > shared.config.version_retention_ms / 2 {
            break;
        }
        let filled: Vec<OpenGap> = gaps.iter().filter(|gap| has(&manifest, gap)).cloned().collect();
        if !filled.is_empty() {
            let older = ids.get(index + 1).cloned();
            return Ok(Some((Found { id: id.clone(), manifest, older }, filled)));
        }
    }
    Ok(None)
}

fn has(manifest: &Manifest, gap: &OpenGap) -> bool {
    let needs = &gap.needs;
    manifest.facts.streams.iter().any(|at| {
        at.shard == gap.shard && at.created_ns == needs.created_ns && at.seq >= needs.position
    })
}

/// The versions of an image, about as many as the rows that are merged.
fn versions(manifest: &Manifest) -> u64 {
    let is_version = |name: &str| name.starts_with("__harmonylite__") && name.ends_with("_version");
    manifest.tables.iter().filter(|(name, _)| is_version(name)).map(|(_, rows)| rows).sum()
}

/// Gives the rows of an image to the writer. `attempt` is its number, how it is shown, and the rows
/// expected. Returns their number, and what the image contains.
async fn merge(
    shared: &Arc<Shared>,
    fetched: Fetched,
    gaps: Vec<OpenGap>,
    (attempt, mut meter, total): (u64, Meter, u64),
) -> Result<(u64, Contents), HealError> {
    let (to_merge, mut batches) = mpsc::channel::<RowBatch>(WAITING);
    let config = shared.config.clone();
    let reader = tokio::task::spawn_blocking(move || -> Result<Contents, RowsError> {
        let now_ms = clock::unix_ms();
        let mut rows = SnapshotRows::open(fetched.path(), &config, &gaps, now_ms)?;
        while let Some(batch) = rows.next_batch()? {
            if to_merge.blocking_send(batch).is_err() {
                break;
            }
        }
        Ok(rows.contents().clone())
    });
    let (mut sent, mut rows) = (0, 0);
    while let Some(batch) = batches.recv().await {
        (sent, rows) = (sent + 1, rows + batch.rows);
        let begun_ms = clock::mono_ms();
        shared.send(Input::Snapshot(FromSnapshot::Rows(batch.body)));
        merged(shared, attempt, sent).await?;
        let took_ms = clock::mono_ms() - begun_ms;
        let rest_ms = took_ms.clamp(*REST_MS.start(), *REST_MS.end());
        tokio::time::sleep(Duration::from_millis(rest_ms)).await;
        meter.show(shared, rows, total.max(rows));
    }
    let contents = reader.await.map_err(|_| HealError::Ends)??;
    Ok((rows, contents))
}

/// Waits until all batches sent in this attempt are merged.
async fn merged(shared: &Shared, attempt: u64, sent: u64) -> Result<(), HealError> {
    let mut writer = shared.sources.writer.clone();
    let is_near = |seen: &WriterSnapshot| {
        let merge = &seen.merge;
        merge.attempt == attempt && (merge.refused.is_some() || merge.merged >= sent)
    };
    let seen = match tokio::time::timeout(STUCK, writer.wait_for(is_near)).await {
        Err(_) => return Err(HealError::Stuck),
        Ok(Err(_)) => return Err(HealError::Ends),
        Ok(Ok(seen)) => seen.merge.refused.clone(),
    };
    seen.map_or(Ok(()), |reason| Err(HealError::Refused(reason)))
}
