//! Messages that the broker's disk damages, and the person who retries what is in quarantine.

use crate::rng::Rng;
use crate::world::World;
use harmonylite::broker::Request;
use harmonylite::inbound::Input;
use harmonylite::store::quarantine;

impl World<'_> {
    /// Changes, cuts or empties the bytes of a stored message. Its headers stay.
    pub(crate) fn damage(&mut self, rng: &mut Rng) {
        let shard = u32::try_from(rng.below(u64::from(self.plan.shards))).unwrap_or(0) + 1;
        self.broker.at(self.true_ms);
        let stream = self.broker.stream(shard);
        let at = rng.index(stream.messages.len().max(1));
        let Some((seq, stored)) = stream.messages.iter_mut().nth(at) else { return };
        let (seq, mut bytes) = (*seq, stored.payload.to_vec());
        match rng.below(3) {
            0 => bytes.truncate(rng.index(bytes.len().max(1))),
            1 => bytes.clear(),
            _ => {
                let at = rng.index(bytes.len().max(1));
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << rng.below(8));
            }
        }
        stored.payload = bytes.into();
        self.marks.hit("message damaged");
        self.say(|| format!("message {seq} of stream {shard} is damaged"));
    }

    /// A person retries every batch in quarantine. The nodes have told each other their schemas,
    /// which are equal by then.
    pub(crate) fn retry_quarantine(&mut self) -> Result<(), String> {
        self.publish_schemas()?;
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

    /// What the node around the engine puts into the registry, as far as a retry reads it.
    fn publish_schemas(&mut self) -> Result<(), String> {
        for node in &self.nodes {
            let Some(process) = &node.process else { continue };
            let hash = &process.inbound.layout().hash;
            let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            let key = format!("node-{}", node.id);
            let value = format!("{{\"schema_hash\":\"{hash}\"}}").into_bytes().into();
            let put = Request::KvPut { key, value, expected: None, ttl_ms: None };
            self.broker.execute(node.id, put).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Returns whether a node has a batch in quarantine.
    pub(crate) fn has_quarantine(&self, n: usize) -> bool {
        quarantine::count(&self.nodes[n].app).is_ok_and(|count| count > 0)
    }
}
