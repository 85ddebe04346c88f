//! Snapshots: images of nodes, gaps that are filled from them, and disks that are lost and restored
//! from one.
//!
//! Stands for what the node does around the engine (`node/snapshots/heal.rs`, `snapshot restore`):
//! an image is a copy of a database at one moment, and its rows come from the same
//! [`SnapshotRows`].

use crate::node::{Process, copy};
use crate::oracle::{Key, Write};
use crate::plan::Direction;
use crate::rng::Rng;
use crate::stored_versions::Version;
use crate::world::{World, sql};
use harmonylite::inbound::{FromSnapshot, Input};
use harmonylite::repair::gaps::OpenGap;
use harmonylite::snapshots::rows::{Contents, SnapshotRows};
use harmonylite::store::sites;
use rusqlite::Connection;

/// The newest images that stay.
const KEEP: usize = 3;
/// A gap that no image fills is looked at again after this time.
const AGAIN_MS: i64 = 60_000;

/// A captured database.
pub(crate) struct Image {
    db: Connection,
    node: usize,
    /// Committed writes that had no version yet: whoever restores the image gives them one.
    unsent: Vec<(Key, Version, Write)>,
}

impl Image {
    /// Returns a copy that nobody else uses.
    fn open(&self) -> rusqlite::Result<Connection> {
        let mut db = Connection::open_in_memory()?;
        db.execute_batch("PRAGMA page_size = 1024")?;
        copy(&self.db, &mut db)?;
        Ok(db)
    }
}

/// What looks for a snapshot at one node.
#[derive(Default)]
pub(crate) struct Healer {
    /// The process to which the rest belongs.
    starts: u64,
    attempt: u64,
    merge: Option<Merge>,
    /// The gaps for which there was nothing, among how many saved images, and when.
    nothing: Option<(Vec<OpenGap>, u64, i64)>,
}

struct Merge {
    rows: SnapshotRows,
    sent: u64,
}

/// The next message to the writing actor.
fn next_message(merge: &mut Merge, gaps: &[OpenGap]) -> Result<(FromSnapshot, bool), String> {
    if let Some(batch) = merge.rows.next_batch().map_err(|e| e.to_string())? {
        merge.sent += 1;
        return Ok((FromSnapshot::Rows(batch.body), false));
    }
    let contents = merge.rows.contents();
    let filled = gaps.iter().filter(|gap| contents.lacks(gap).is_none());
    let gaps = filled.map(|gap| gap.key).collect();
    let (origins, unpublished_ms) = (contents.origins.clone(), contents.unpublished_ms);
    Ok((FromSnapshot::Covers { gaps, origins, unpublished_ms }, true))
}

impl World<'_> {
    /// Saves an image of a node. What is in it is on that node's disk too.
    pub(crate) fn save(&mut self, n: usize) -> Result<(), String> {
        if self.plan.directions[n] != Direction::Both {
            return Ok(());
        }
        self.nodes[n].sync().map_err(sql)?;
        let app = &self.nodes[n].app;
        let mut db = Connection::open_in_memory().map_err(sql)?;
        db.execute_batch("PRAGMA page_size = 1024").map_err(sql)?;
        copy(app, &mut db).map_err(sql)?;
        let unsent = self.oracle.unsent(n, app)?;
        self.images.push(Image { db, node: n, unsent });
        if self.images.len() > KEEP {
            self.images.remove(0);
        }
        self.saved += 1;
        self.marks.hit("snapshot saved");
        self.say(|| format!("node {n}: a snapshot is saved"));
        Ok(())
    }

    /// The disk of a node is gone, and the node starts from a snapshot.
    pub(crate) fn lose_disk(&mut self, n: usize, rng: &mut Rng) -> Result<(), String> {
        // As with a power cut, what the broker loses at the same time is lost twice.
        if self.images.is_empty() || self.is_unseen(&self.unseen_loss, n) {
            return Ok(());
        }
        self.crash(n, rng);
        self.nodes[n].link.ghosts.clear();
        let acknowledged = self.acknowledged(n)?;
        let image = &self.images[rng.index(self.images.len())];
        let (of, unsent) = (image.node, image.unsent.clone());
        let restored = image.open().map_err(sql)?;
        sites::end_restored(&restored, self.true_ms).map_err(|e| e.to_string())?;
        self.nodes[n].replace_disk(&restored).map_err(sql)?;
        let lost = self.oracle.disk_lost(n, &self.nodes[n].app, acknowledged, unsent)?;
        self.forget_seen(n)?;
        self.unseen_cut[n] = Some(0);
        self.marks.hit("disk lost");
        self.say(|| {
            format!(
                "node {n}: its disk is lost; it has a snapshot of node {of}, {lost} writes may be \
                lost"
            )
        });
        self.start(n)
    }

    /// One step of what fills gaps from snapshots. Returns whether it did something.
    pub(crate) fn fill_gaps(&mut self, n: usize) -> Result<bool, String> {
        if !self.plan.snapshots {
            return Ok(false);
        }
        let (starts, images) = (self.nodes[n].starts, self.saved);
        let Some(process) = &mut self.nodes[n].process else { return Ok(false) };
        let healer = &mut self.healers[n];
        if healer.starts != starts {
            *healer = Healer { starts, attempt: healer.attempt, ..Healer::default() };
        }
        if healer.merge.is_some() {
            return self.go_on(n);
        }
        let gaps = process.inbound.gaps();
        let is_answered = |(known, among, at): &(Vec<OpenGap>, u64, i64)| {
            *known == gaps && *among == images && self.true_ms < at + AGAIN_MS
        };
        if gaps.is_empty() || healer.nothing.as_ref().is_some_and(is_answered) {
            return Ok(false);
        }
        self.look_for_image(n, gaps)?;
        Ok(true)
    }

    fn look_for_image(&mut self, n: usize, gaps: Vec<OpenGap>) -> Result<(), String> {
        for image in self.images.iter().rev() {
            let contents = Contents::read(&image.db).map_err(|e| e.to_string())?;
            let fits = |gap: &&OpenGap| contents.lacks(gap).is_none();
            let filled: Vec<OpenGap> = gaps.iter().filter(fits).cloned().collect();
            if filled.is_empty() {
                continue;
            }
            let copy = image.open().map_err(sql)?;
            let opened = SnapshotRows::of(copy, self.nodes[n].config(), &filled, self.true_ms);
            let Ok(rows) = opened else { continue };
            let healer = &mut self.healers[n];
            healer.attempt += 1;
            healer.merge = Some(Merge { rows, sent: 0 });
            let reading = FromSnapshot::Reading(healer.attempt);
            self.tell_of_snapshot(n, reading);
            return Ok(());
        }
        self.healers[n].nothing = Some((gaps, self.saved, self.true_ms));
        self.tell_of_snapshot(n, FromSnapshot::None);
        Ok(())
    }

    /// Sends the next batch of an image once the one before is merged.
    fn go_on(&mut self, n: usize) -> Result<bool, String> {
        let Some(process) = &self.nodes[n].process else { return Ok(false) };
        let (progress, gaps) = (process.inbound.merge_progress(), process.inbound.gaps());
        let healer = &mut self.healers[n];
        let Some(merge) = &mut healer.merge else { return Ok(false) };
        if progress.attempt == healer.attempt && progress.refused.is_some() {
            healer.merge = None;
            healer.nothing = Some((gaps, self.saved, self.true_ms));
            self.marks.hit("snapshot refused");
            self.tell_of_snapshot(n, FromSnapshot::None);
            return Ok(true);
        }
        if merge.sent > 0 && (progress.attempt != healer.attempt || progress.merged < merge.sent) {
            return Ok(false);
        }
        let (message, is_last) = next_message(merge, &gaps)?;
        if is_last {
            healer.merge = None;
            self.marks.hit("gap filled from a snapshot");
        }
        self.tell_of_snapshot(n, message);
        Ok(true)
    }

    fn tell_of_snapshot(&mut self, n: usize, message: FromSnapshot) {
        if let Some(Process { inbound_in, .. }) = &mut self.nodes[n].process {
            inbound_in.push_back(Input::Snapshot(message));
        }
    }
}
