//! Batches that end in quarantine, and the person who retries them: messages that the broker's disk
//! damages, and rows that a node's database refuses.

use crate::application;
use crate::rng::Rng;
use crate::world::{World, sql};
use harmonylite::inbound::Input;
use harmonylite::store::quarantine;

impl World<'_> {
    /// Changes, cuts or empties the bytes of a stored message, or makes its headers unreadable.
    pub(crate) fn damage(&mut self, rng: &mut Rng) {
        let shard = u32::try_from(rng.below(u64::from(self.plan.shards))).unwrap_or(0) + 1;
        self.broker.at(self.true_ms);
        let stream = self.broker.stream(shard);
        let at = rng.index(stream.messages.len().max(1));
        let Some((seq, stored)) = stream.messages.iter_mut().nth(at) else { return };
        let (seq, mut bytes) = (*seq, stored.payload.to_vec());
        match rng.below(8) {
            0 => bytes.truncate(rng.index(bytes.len().max(1))),
            1 => bytes.clear(),
            2 => stored.headers = Err("damaged headers".to_owned()),
            _ => {
                let at = rng.index(bytes.len().max(1));
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << rng.below(8));
            }
        }
        stored.payload = bytes.into();
        self.marks.hit("message damaged");
        self.say(|| format!("message {seq} of stream {shard} is damaged"));
    }

    /// Gives a node an index that fails for the items of another node, or removes it. The schemas
    /// count as equal, so batches with such items are neither held nor applied.
    pub(crate) fn refuse(&mut self, n: usize, rng: &mut Rng) -> Result<(), String> {
        let other = (n + 1 + rng.index(self.nodes.len() - 1)) % self.nodes.len();
        if self.accept(n)? {
            return Ok(());
        }
        let column = application::label_column(&self.nodes[n].app).map_err(sql)?;
        let index = format!(
            "CREATE INDEX refuse ON item (json_extract(iif({column} LIKE 'n{other}%', {column}, \
            '{{}}'), '$'))"
        );
        // It is not made where such an item is.
        if self.nodes[n].app.execute_batch(&index).is_ok() {
            self.marks.hit("rows refused");
            self.say(|| format!("node {n} refuses the items of node {other}"));
            self.nodes[n].wake();
        }
        Ok(())
    }

    /// Lets a node take all rows. Returns whether it refused some.
    pub(crate) fn accept(&mut self, n: usize) -> Result<bool, String> {
        let app = &self.nodes[n].app;
        let sql_text = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'refuse')";
        let refuses = app.query_row(sql_text, [], |r| r.get(0)).map_err(sql)?;
        if refuses {
            app.execute_batch("DROP INDEX refuse").map_err(sql)?;
            self.say(|| format!("node {n} refuses nothing any more"));
        }
        Ok(refuses)
    }

    /// A person retries every batch in quarantine.
    pub(crate) fn retry_quarantine(&mut self) -> Result<(), String> {
        for n in 0..self.nodes.len() {
            let entries = quarantine::list(&self.nodes[n].app).map_err(|e| e.to_string())?;
            for entry in entries {
                let Some(process) = &mut self.nodes[n].process else { continue };
                process.inbound_in.push_back(Input::RetryQuarantine(entry.id));
                self.marks.hit("quarantine retried");
                self.say(|| format!("node {n}: a person retries {}: {}", entry.id, entry.reason));
            }
        }
        Ok(())
    }

    /// Returns whether a node has a batch in quarantine.
    pub(crate) fn has_quarantine(&self, n: usize) -> bool {
        quarantine::count(&self.nodes[n].app).is_ok_and(|count| count > 0)
    }
}
