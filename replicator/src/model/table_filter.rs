//! The tables that the configuration selects for replication.

use crate::model::bookkeeping::{self, Bookkeeping};
use crate::model::rebuilds;
use globset::{Glob, GlobSet};

/// A name that no tool uses. A pattern that matches it consists of wildcards.
const ANY_NAME: &str = "qzx_qzx0_qzx0_qzx";

/// Patterns for table names. The default selects every table, except the bookkeeping of tools.
#[derive(Clone, Debug, Default)]
pub struct TableFilter {
    /// Tables to replicate. Empty means all.
    pub include: GlobSet,
    /// Tables to leave out, even if `include` matches.
    pub exclude: GlobSet,
    /// The patterns of `include` that name tables ([`names_tables`]): bookkeeping that one of them
    /// matches is replicated.
    pub named: GlobSet,
    /// Bookkeeping of migration tools is replicated as well, because migrations travel.
    pub migrations_travel: bool,
    /// What becomes of tables whose rows have no identity.
    pub without_key: WithoutKey,
}

/// What becomes of a table without a PRIMARY KEY and without a UNIQUE index over NOT NULL columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WithoutKey {
    /// It is not replicated.
    #[default]
    Skip,
    /// Its rows are identified by the rowid, which VACUUM renumbers, and which two nodes give to
    /// different rows.
    Rowid,
}

/// What the filter decides about a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// It is replicated.
    Selected,
    /// The patterns leave it out.
    Excluded,
    /// It stays here because a tool keeps its books in it.
    Bookkeeping(&'static Bookkeeping),
    /// It stays here because a migration tool rebuilds another table with it.
    Rebuild,
}

impl TableFilter {
    /// The default, with tables whose rows have no identity by their rowid.
    #[cfg(test)]
    pub fn with_rowids() -> Self {
        Self { without_key: WithoutKey::Rowid, ..Self::default() }
    }

    /// Decides about a table. Its columns are read only where the name is not enough.
    ///
    /// # Errors
    /// The error of `columns`.
    pub fn select<E>(
        &self,
        table: &str,
        columns: impl FnOnce() -> Result<Vec<String>, E>,
    ) -> Result<Selection, E> {
        let included = self.include.is_empty() || self.include.is_match(table);
        if !included || self.exclude.is_match(table) {
            return Ok(Selection::Excluded);
        }
        if self.named.is_match(table) {
            return Ok(Selection::Selected);
        }
        if rebuilds::is_copy(table) {
            return Ok(Selection::Rebuild);
        }
        let found = bookkeeping::find(table, columns)?
            .filter(|known| !(self.migrations_travel && known.travels_with_migrations()));
        Ok(found.map_or(Selection::Selected, Selection::Bookkeeping))
    }
}

/// Returns whether a pattern names tables, wholly or in part, instead of matching any name.
pub fn names_tables(pattern: &Glob) -> bool {
    !pattern.compile_matcher().is_match(ANY_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use globset::GlobSetBuilder;
    use std::convert::Infallible;

    fn globs(patterns: &str, wanted: impl Fn(&Glob) -> bool) -> GlobSet {
        let mut set = GlobSetBuilder::new();
        for glob in patterns.split_whitespace().map(|p| Glob::new(p).unwrap()) {
            if wanted(&glob) {
                set.add(glob);
            }
        }
        set.build().unwrap()
    }

    #[test]
    fn patterns_decide_first_and_then_bookkeeping() {
        let (yes, no, books, copy) = ("selected", "excluded", "bookkeeping", "copy");
        for (include, exclude, table, expected) in [
            ("", "", "item", yes),
            ("", "item", "item", no),
            ("other", "", "item", no),
            ("", "", "django_migrations", books),
            ("", "", "Django_Migrations", books),
            ("", "", "django_session", yes),
            ("*", "", "django_migrations", books),
            ("**", "", "django_migrations", books),
            ("?*", "", "django_migrations", books),
            ("*_*", "", "django_migrations", books),
            ("[a-z]*", "", "django_migrations", books),
            ("{*,item}", "", "django_migrations", books),
            ("django_migrations", "", "django_migrations", yes),
            ("* django_migrations", "", "django_migrations", yes),
            ("* django_migrations", "", "item", yes),
            ("* django_migrations", "", "alembic_version", books),
            ("django_*", "", "django_migrations", yes),
            ("*_migrations", "", "django_migrations", yes),
            ("django_migrations", "django_*", "django_migrations", no),
            ("item", "", "django_migrations", no),
            ("", "*migrations", "django_migrations", no),
            ("*", "", "_alembic_tmp_item", copy),
            ("_alembic_*", "", "_alembic_tmp_item", yes),
        ] {
            let filter = TableFilter {
                include: globs(include, |_| true),
                exclude: globs(exclude, |_| true),
                named: globs(include, names_tables),
                ..TableFilter::default()
            };
            let columns = || Ok::<_, Infallible>(Vec::new());
            let got = match filter.select(table, columns).unwrap() {
                Selection::Selected => yes,
                Selection::Excluded => no,
                Selection::Bookkeeping(_) => books,
                Selection::Rebuild => copy,
            };
            assert_eq!(got, expected, "include {include:?}, exclude {exclude:?}: {table}");
        }
    }
}
