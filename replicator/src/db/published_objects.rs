//! The schema objects of a node as bytes in the registry (FORMAT.md).
//!
//! Arrives: what this node has, or the bytes that another one has written. Leaves: bounded bytes,
//! or checked objects. Pure.

use crate::db::objects::{Kind, Objects, TEXT_BYTES_MAX};
use serde::{Deserialize, Serialize};
use std::io::Read;

/// The newest form that this program reads.
const FORMAT: u64 = 1;
/// Greatest size in the registry. A schema that is larger is only announced as such.
const BYTES_MAX: usize = 512 << 10;
/// Greatest window of the compressor, as for batches.
const WINDOW_LOG_MAX: u32 = 23;
const LEVEL: i32 = 3;

/// What a node publishes of its schema.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The form of the rest.
    pub format: u64,
    /// The node.
    pub node_id: u64,
    /// When it was written, unix milliseconds.
    pub written_ms: i64,
    /// Its objects; None if they are too large for the registry.
    pub objects: Option<Objects>,
    /// The tables that it keeps to itself.
    pub local: Vec<String>,
}

impl Published {
    /// What this node publishes now.
    pub fn new(node_id: u64, written_ms: i64, objects: Objects, local: Vec<String>) -> Self {
        Self { format: FORMAT, node_id, written_ms, objects: Some(objects), local }
    }

    /// As bytes, without the objects if these are too large.
    ///
    /// # Errors
    /// The encoder's error.
    pub fn encode(mut self) -> Result<Vec<u8>, String> {
        let bytes = pack(&self)?;
        if bytes.len() <= BYTES_MAX {
            return Ok(bytes);
        }
        (self.objects, self.local) = (None, Vec::new());
        pack(&self)
    }

    /// Reads what another node has written.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > 2 * BYTES_MAX {
            return Err("it is larger than any program writes".to_owned());
        }
        let mut plain = Vec::new();
        let read = zstd::stream::read::Decoder::new(bytes).and_then(|mut decoder| {
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            // The names beside the texts need some room too.
            decoder.take(2 * TEXT_BYTES_MAX as u64).read_to_end(&mut plain)
        });
        read.map_err(|error| format!("it cannot be decompressed: {error}"))?;
        let published: Self = ciborium::from_reader(&plain[..])
            .map_err(|error| format!("it cannot be read: {error}"))?;
        if published.format != FORMAT {
            let found = published.format;
            return Err(format!("it has form {found}, this program reads {FORMAT}: upgrade it"));
        }
        published.check()?;
        Ok(published)
    }

    /// Checks names and sizes.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        self.objects.as_ref().map_or(Ok(()), Objects::check)
    }
}

fn pack(published: &Published) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    ciborium::into_writer(published, &mut plain).map_err(|error| error.to_string())?;
    zstd::bulk::compress(&plain, LEVEL).map_err(|error| error.to_string())
}

impl Objects {
    /// Leaves out what belongs to these tables.
    #[must_use]
    pub fn without(mut self, tables: &[String]) -> Self {
        let listed = |name: &str| tables.iter().any(|t| t.eq_ignore_ascii_case(name));
        self.tables.retain(|table| !listed(&table.name));
        self.others.retain(|o| o.kind == Kind::View || !listed(&o.table));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::objects::Object;

    fn published(views: usize) -> Published {
        let view = |i: usize| {
            let name = format!("v{i}");
            // Text that does not shrink much.
            let noise: String =
                (0..200).map(|k| format!("{:x}", (i * 7919 + k * k * 31) % 9973)).collect();
            let sql = format!("CREATE VIEW {name} AS SELECT '{noise}'");
            Object { kind: Kind::View, table: name.clone(), name, sql }
        };
        let objects = Objects { tables: Vec::new(), others: (0..views).map(view).collect() };
        Published::new(7, 5, objects, vec!["cache".to_owned()])
    }

    #[test]
    fn it_comes_back_and_what_is_too_large_is_left_out() {
        let small = published(3);
        assert_eq!(Published::decode(&small.clone().encode().unwrap()), Ok(small));
        let bytes = published(9_000).encode().unwrap();
        assert!(bytes.len() < 1_000, "{}", bytes.len());
        let large = Published::decode(&bytes).unwrap();
        assert_eq!((large.node_id, large.objects), (7, None));
    }

    #[test]
    fn bytes_from_the_network_are_bounded_and_checked() {
        let good = published(1).encode().unwrap();
        for end in 0..good.len() {
            assert!(Published::decode(&good[..end]).is_err(), "{end}");
        }
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
        assert!(Published::decode(&bomb).is_err());
        assert!(Published::decode(&vec![0; 3 * BYTES_MAX]).is_err());
        let mut newer = published(1);
        newer.format = 2;
        assert!(Published::decode(&newer.encode().unwrap()).unwrap_err().contains("upgrade"));
        let mut twice = published(1);
        let objects = twice.objects.as_mut().unwrap();
        objects.others.push(objects.others[0].clone());
        assert!(Published::decode(&twice.encode().unwrap()).unwrap_err().contains("twice"));
    }

    #[test]
    fn tables_that_a_node_keeps_are_left_out_with_their_indexes() {
        let object = |kind, name: &str, table: &str| Object {
            kind,
            name: name.to_owned(),
            table: table.to_owned(),
            sql: format!("CREATE TABLE {name} (a)"),
        };
        let objects = Objects {
            tables: vec![
                object(Kind::Table, "t", "t").try_into().unwrap(),
                object(Kind::Table, "Cache", "Cache").try_into().unwrap(),
            ],
            others: vec![
                object(Kind::Index, "i", "cache"),
                object(Kind::Index, "j", "t"),
                object(Kind::View, "cache", "cache"),
            ],
        };
        let left = objects.without(&["cache".to_owned()]);
        let names = left.tables.iter().map(|t| &t.name).chain(left.others.iter().map(|o| &o.name));
        assert_eq!(names.collect::<Vec<_>>(), ["t", "j", "cache"]);
    }
}
