//! How the numbers of [`crate::model::ids`] stand in SQL: as integers. SQLite knows signed ones
//! only; an unsigned number is stored as the signed one with the same bits.

use crate::model::ids::{BatchNo, Hlc, NodeId, Site, StreamSeq, Version};
use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

macro_rules! unsigned {
    ($($name:ident),*) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.0.cast_signed().into())
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                i64::column_result(value).map(|stored| Self(stored.cast_unsigned()))
            }
        }
    )*};
}
unsigned!(NodeId, BatchNo, StreamSeq);

macro_rules! signed {
    ($($name:ident),*) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.0.into())
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                i64::column_result(value).map(Self)
            }
        }
    )*};
}
signed!(Site, Hlc);

/// Reads a version from two columns, the time first.
///
/// # Errors
/// SQLite's error about the columns.
pub fn version_from(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Version> {
    Ok(Version { hlc: row.get(column)?, site: row.get(column + 1)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;
    use std::fmt::Debug;

    /// Sends an id through SQLite and returns the integer that SQLite saw.
    fn round_trip<T: ToSql + FromSql + PartialEq + Debug>(id: T) -> i64 {
        let db = Connection::open_in_memory().unwrap();
        let read: (T, i64, String) = db
            .query_row("SELECT ?1, ?1, typeof(?1)", [&id], |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?))
            })
            .unwrap();
        assert_eq!((&read.0, read.2.as_str()), (&id, "integer"));
        read.1
    }

    #[test]
    fn a_node_id_keeps_its_bits() {
        assert_eq!(round_trip(NodeId(7)), 7);
        assert_eq!(round_trip(NodeId(u64::MAX)), -1);
    }

    #[test]
    fn a_batch_number_keeps_its_bits() {
        assert_eq!(round_trip(BatchNo(0)), 0);
        assert_eq!(round_trip(BatchNo(1 << 63)), i64::MIN);
    }

    #[test]
    fn a_stream_position_keeps_its_bits() {
        assert_eq!(round_trip(StreamSeq(3)), 3);
        assert_eq!(round_trip(StreamSeq(u64::MAX - 1)), -2);
    }

    #[test]
    fn a_site_is_itself() {
        assert_eq!(round_trip(Site(i64::MAX)), i64::MAX);
        assert_eq!(round_trip(Site(0)), 0);
    }

    #[test]
    fn a_hybrid_time_is_itself() {
        assert_eq!(round_trip(Hlc::FOREIGN_MAX), Hlc::FOREIGN_MAX.0);
        assert_eq!(round_trip(Hlc(-1)), -1);
    }

    #[test]
    fn an_id_is_never_read_from_text() {
        let db = Connection::open_in_memory().unwrap();
        assert!(db.query_row("SELECT '7'", [], |r| r.get::<_, NodeId>(0)).is_err());
    }
}
