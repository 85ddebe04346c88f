//! Reads what a manifest holds about the cluster.

use crate::db::connection::DatabaseError;
use crate::store::cursor::{self, Cursor};
use crate::store::{install, meta, origins};
use data_encoding::HEXLOWER;
use harmonylite_snapshot::manifest::{Facts, OriginPosition, StreamPosition};
use rusqlite::Connection;

/// Reads the facts of a database, in the caller's transaction. A database that never had a sidecar
/// has none.
///
/// # Errors
/// SQLite's error.
pub(crate) fn facts(db: &Connection) -> Result<Facts, DatabaseError> {
    let program = env!("CARGO_PKG_VERSION").to_owned();
    if !install::is_installed(db)? {
        return Ok(Facts { program, ..Facts::default() });
    }
    let mut streams = Vec::new();
    for shard in cursor::shards(db)? {
        let cursor = Cursor::read(db, shard)?;
        streams.extend(cursor.head().map(|head| StreamPosition {
            shard,
            seq: head.seq.0,
            created_ns: head.created_ns,
        }));
    }
    let origins = origins::all(db)?.into_iter().map(|origin| OriginPosition {
        node: origin.node.0,
        site: origin.site.0,
        batch: origin.batch.0,
    });
    Ok(Facts {
        node: meta::get(db, meta::NODE)?.map_or(0, |node| node.0),
        schema_hash: meta::get(db, meta::SCHEMA_HASH)?
            .map_or_else(String::new, |hash| HEXLOWER.encode(&hash)),
        streams,
        origins: origins.collect(),
        program,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{BatchNo, NodeId, Site, StreamSeq};
    use crate::store::cursor::Anchor;
    use crate::store::origins::Origin;
    use crate::store::test_database;

    #[test]
    fn positions_and_identity_are_read() {
        let plain = Connection::open_in_memory().unwrap();
        assert_eq!(facts(&plain).unwrap().node, 0);
        let db = test_database();
        meta::set(&db, meta::NODE, NodeId(u64::MAX)).unwrap();
        meta::set(&db, meta::SCHEMA_HASH, [0xab; 32]).unwrap();
        let origin = Origin { site: Site(5), node: NodeId(2), batch: BatchNo(9), created_ms: 1 };
        origins::put(&db, &origin).unwrap();
        let mut cursor = Cursor::default();
        for seq in 1..9 {
            let anchor = Anchor { seq: StreamSeq(seq), ..Anchor::start(77) };
            cursor.advance(anchor, 0, 1, 16);
        }
        cursor.write(&db, 2).unwrap();
        let facts = facts(&db).unwrap();
        assert_eq!((facts.node, facts.schema_hash.as_str()), (u64::MAX, &*"ab".repeat(32)));
        assert_eq!(facts.streams, [StreamPosition { shard: 2, seq: 8, created_ns: 77 }]);
        assert_eq!(facts.origins, [OriginPosition { node: 2, site: 5, batch: 9 }]);
    }
}
