//! The state of a moment, for `harmonylite snapshot restore --at` and `snapshot list`.

use super::failed;
use crate::cli::exit::{Exit, Failure};
use crate::cli::show;
use crate::clock;
use crate::nats::History;
use crate::settings::Settings;
use crate::snapshots::begin_anew;
use crate::snapshots::fit::check;
use crate::snapshots::moments::{self, Lack, Reachable, StreamAt, Unread};
use crate::snapshots::replay::{Replay, ReplayError, ReplayProgress, Replayed, Until};
use anyhow::{Context, Result};
use harmonylite_snapshot::SnapshotError;
use harmonylite_snapshot::catalog::{Found, find, ids, read};
use harmonylite_snapshot::restore::Fetched;
use harmonylite_snapshot::store::Retrying;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Reads a time: RFC 3339, also with a space, without seconds, or without a zone (UTC).
pub(super) fn parse(text: &str) -> Result<i64, Failure> {
    let mut full = text.trim().replacen(' ', "T", 1);
    if full.len() == "2026-11-29T03:04".len() {
        full.push_str(":00");
    }
    let has_zone = full.get(10..).is_some_and(|time| time.contains(['Z', 'z', '+', '-']));
    if !has_zone {
        full.push('Z');
    }
    let parsed = OffsetDateTime::parse(&full, &Rfc3339).ok();
    parsed.and_then(|time| i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()).ok_or_else(
        || {
            Failure::new(
                Exit::Usage,
                format!("--at: {text:?} is no time"),
                "write it as 2026-11-29T15:04:05Z or \"2026-11-29 15:04\" (UTC)",
            )
        },
    )
}

/// Formats a moment so that `--at` takes it: UTC, to the millisecond.
pub(super) fn exact(unix_ms: i64) -> String {
    let whole = show::moment(unix_ms);
    match whole.strip_suffix('Z') {
        Some(seconds) => format!("{seconds}.{:03}Z", unix_ms.rem_euclid(1_000)),
        None => whole,
    }
}

/// How the state of a moment is built.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) found: Found,
    pub(super) at_ms: i64,
    streams: Vec<StreamAt>,
}

impl Chosen {
    /// The messages that come after the snapshot.
    pub(super) fn messages(&self) -> u64 {
        moments::messages(&self.found.manifest, &self.streams)
    }
}

/// Chooses the newest snapshot, or the named one, from which the moment can be reached.
pub(super) async fn choose(
    store: &Retrying,
    history: &History,
    settings: &Settings,
    wanted: Option<&str>,
    at_ms: i64,
) -> Result<Chosen> {
    let now_ms = clock::unix_ms();
    if at_ms > now_ms {
        return Err(Failure::new(
            Exit::Usage,
            format!("--at: {} is in the future", exact(at_ms)),
            format!("the nearest moment is now, {}", exact(now_ms)),
        )
        .into());
    }
    let all = match wanted {
        Some(_) => vec![find(store, wanted).await.map_err(failed)?],
        None => usable(store).await.map_err(failed)?,
    };
    if all.is_empty() {
        return Err(failed(SnapshotError::None { place: store.place() }).into());
    }
    let shards = settings.replication_log.shards;
    let streams = moments::streams(history, shards, at_ms).await.map_err(unreachable)?;
    // Why the newest of the earlier snapshots does not lead there.
    let mut gone = None;
    for found in &all {
        match moments::lacks(&found.manifest, at_ms, &streams) {
            None => return Ok(Chosen { found: found.clone(), at_ms, streams }),
            Some(Lack::Later) => {}
            Some(Lack::Gone(why)) => {
                gone.get_or_insert_with(|| (found.clone(), why));
            }
        }
    }
    let now = moments::streams(history, shards, now_ms).await.map_err(unreachable)?;
    let reachable = moments::reachable(history, &all, &now, now_ms).await.map_err(unreachable)?;
    Err(none(store, at_ms, gone, &reachable).into())
}

/// All snapshots whose manifest can be read, newest first.
async fn usable(store: &Retrying) -> Result<Vec<Found>, SnapshotError> {
    let ids = ids(store).await?;
    let mut all = Vec::new();
    for (index, id) in ids.iter().enumerate() {
        match read(store, id).await {
            Err(error @ SnapshotError::Store { .. }) => return Err(error),
            Err(error) => tracing::warn!(snapshot = %id, %error, "this snapshot cannot be used"),
            Ok(manifest) => {
                let older = ids.get(index + 1).cloned();
                all.push(Found { id: id.clone(), manifest, older });
            }
        }
    }
    Ok(all)
}

fn none(
    store: &Retrying,
    at_ms: i64,
    gone: Option<(Found, String)>,
    reachable: &Reachable,
) -> Failure {
    let place = store.place();
    let why = match &gone {
        Some((found, why)) => format!("{why}, which follow snapshot {}", found.id),
        None => format!("every snapshot in {place} is later"),
    };
    let before = match &gone {
        None => "nothing before it".to_owned(),
        Some((found, _)) => format!(
            "before it, that of snapshot {} ({}): --snapshot {} without --at",
            found.id,
            exact(found.manifest.created_ms),
            found.id
        ),
    };
    let after = match reachable.from_ms.filter(|from_ms| *from_ms > at_ms) {
        None => "nothing after it".to_owned(),
        Some(from_ms) => {
            format!("after it, each from {} to {}", exact(from_ms), exact(reachable.to_ms))
        }
    };
    Failure::new(
        Exit::General,
        format!("the state of {} cannot be built: {why}", exact(at_ms)),
        format!("the nearest moments are: {before}; {after}"),
    )
}

/// The moments that `--at` can reach now.
pub(super) async fn reachable(
    history: &History,
    snapshots: &[Found],
    shards: u32,
) -> Result<Reachable, Unread> {
    let now_ms = clock::unix_ms();
    let now = moments::streams(history, shards, now_ms).await?;
    moments::reachable(history, snapshots, &now, now_ms).await
}

/// Applies what the streams hold up to the moment to a fetched image.
pub(super) async fn replay(
    fetched: &Fetched,
    settings: &Settings,
    history: &Arc<History>,
    chosen: &Chosen,
    progress: &Arc<ReplayProgress>,
) -> Result<Replayed> {
    progress.total.store(chosen.messages(), Ordering::Relaxed);
    let progress = Arc::clone(progress);
    let (path, history) = (fetched.path().to_owned(), Arc::clone(history));
    let settings = Settings { db_path: path.clone(), ..settings.clone() };
    let (at_ms, upto) = (chosen.at_ms, moments::upto(&chosen.streams));
    let runtime = tokio::runtime::Handle::current();
    let is_reached = moments::is_reached(&chosen.found.manifest, &chosen.streams);
    let replayed = tokio::task::spawn_blocking(move || {
        let node = check(&path, settings.replication_log.shards, Some(at_ms))?;
        if is_reached {
            return Ok(Replayed::default());
        }
        begin_anew(&path, clock::unix_ms())?;
        let config = settings.node_config(node)?;
        Replay::open(&path, config, &history, runtime, Until::Moment(at_ms, upto))?.run(&progress)
    });
    let replayed = replayed.await.context("the replay ended")?;
    Ok(replayed.map_err(|error| refused(&error, chosen))?)
}

fn refused(error: &ReplayError, chosen: &Chosen) -> Failure {
    let id = &chosen.found.id;
    let what = format!("the state of {} cannot be built: {error}", exact(chosen.at_ms));
    match error {
        ReplayError::Stopped(stopped) => {
            let reached = match stopped.time_ms {
                0 => String::new(),
                at => format!("the last moment before it is --at {}; ", exact(at - 1)),
            };
            let hint = match stopped.is_schema {
                true => "after it, those from the next snapshot that was taken after the migration",
                false => "a node has such a batch in quarantine (`harmonylite quarantine list`)",
            };
            Failure::new(Exit::Protect, what, format!("{reached}{hint}"))
        }
        ReplayError::Snapshot(_) => {
            let hint = format!("name an older snapshot than {id}: `--at TIME --snapshot ID`");
            Failure::new(Exit::General, format!("{what} (snapshot {id})"), hint)
        }
        ReplayError::Missing(_) => {
            let hint = format!("that of snapshot {id} can be: --snapshot {id} without --at");
            Failure::new(Exit::General, what, hint)
        }
        ReplayError::Broker(_) => Failure::new(Exit::Broker, what, "see the state of the broker"),
        ReplayError::Full => Failure::new(Exit::Database, what, "free space, then try again"),
        ReplayError::Fatal(_)
        | ReplayError::Database(_)
        | ReplayError::Restored(_)
        | ReplayError::Random(_)
        | ReplayError::Config(_) => {
            let hint = "check the file system of --to, and the settings; then try again";
            Failure::new(Exit::Database, what, hint)
        }
    }
}

/// Reports that the broker cannot be read.
fn unreachable(error: Unread) -> Failure {
    Failure::new(
        Exit::Broker,
        error.to_string(),
        "see the state of the broker; --at needs what the streams hold",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        let at = 1_700_000_000_123;
        assert_eq!(exact(at), "2023-11-14T22:13:20.123Z");
        for text in [
            "2023-11-14T22:13:20.123Z",
            "2023-11-14 22:13:20.123",
            "2023-11-14T23:13:20.123+01:00",
            "2023-11-14 17:13:20.123-05:00",
        ] {
            assert_eq!(parse(text).unwrap(), at, "{text}");
        }
        assert_eq!(parse("2023-11-14 22:13").unwrap(), 1_699_999_980_000);
        for bad in ["", "yesterday", "2023-11-14", "2023-13-14T00:00:00Z", "1700000000"] {
            assert!(parse(bad).unwrap_err().what.contains(bad), "{bad}");
        }
    }
}
