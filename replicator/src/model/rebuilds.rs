//! Tables that exist only while a migration tool rebuilds another: it fills a copy under such a
//! name, drops the table, and renames the copy.
//!
//! Most tools do that in one transaction, and nobody sees the copy. Some commit in between (Alembic
//! with Python's driver, Laravel, Prisma). If the copy were replicated, its rows would leave under
//! a name that the other nodes never have, and the table would seem to be dropped for a moment.

/// Beginnings of such names. A table of an application must never match.
const BEGINNINGS: &[&str] =
    &["_alembic_tmp_", "__new_", "_knex_temp_alter", "__temp__", "new__", "__kysely_tmp_"];

/// Whether a migration tool has made this table to rebuild another.
pub fn is_copy(table: &str) -> bool {
    let begins = |with: &str| {
        table.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with))
            && table.len() > with.len()
    };
    BEGINNINGS.iter().copied().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_known_by_their_names() {
        for copy in ["_alembic_tmp_item", "__NEW_users", "new__shop_item", "_knex_temp_alter834"] {
            assert!(is_copy(copy), "{copy}");
        }
        for table in ["new_orders", "new__", "item", "", "_new_", "tmp_item", "renew__x", "né"] {
            assert!(!is_copy(table), "{table}");
        }
    }
}
