//! The table `__harmonylite__site_number`: a site of eight bytes stands as a small number in the
//! version of each row.
//!
//! A number is negative and a site is positive, so versions of a former format, which hold the site
//! itself, are read as well. A number is given once: the last one stands in `meta` too, so that a
//! dropped table does not give a number of one site to another.

use super::meta;
use crate::db::connection::DatabaseError;
use crate::model::ids::Site;
use rusqlite::{Connection, OptionalExtension, params};

/// The most numbers that are kept in memory.
const KNOWN_MAX: usize = 16;

/// The numbers that one transaction has met. Its user drops it at the end of the transaction at the
/// latest: a rollback takes new numbers back.
#[derive(Debug, Default)]
pub struct SiteNumbers {
    known: Vec<(i64, Site)>,
}

impl SiteNumbers {
    /// Returns the number of a site, and gives it one if it has none.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn number(&mut self, db: &Connection, site: Site) -> Result<i64, DatabaseError> {
        if let Some((number, _)) = self.known.iter().find(|(_, known)| *known == site) {
            return Ok(*number);
        }
        let number = match stored_number(db, site)? {
            Some(number) => number,
            None => give_number(db, site)?,
        };
        self.keep(number, site);
        Ok(number)
    }

    /// Returns the site of a stored number. One that nobody knows any more is no site of any node.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn site(&mut self, db: &Connection, stored: i64) -> Result<Site, DatabaseError> {
        if stored >= 0 {
            return Ok(Site(stored));
        }
        if let Some((_, site)) = self.known.iter().find(|(number, _)| *number == stored) {
            return Ok(*site);
        }
        let site = db
            .prepare_cached("SELECT site FROM main.__harmonylite__site_number WHERE number = ?1")?
            .query_row([stored], |r| r.get(0))
            .optional()?
            .unwrap_or(Site(0));
        self.keep(stored, site);
        Ok(site)
    }

    fn keep(&mut self, number: i64, site: Site) {
        if self.known.len() == KNOWN_MAX {
            self.known.remove(0);
        }
        self.known.push((number, site));
    }
}

fn stored_number(db: &Connection, site: Site) -> Result<Option<i64>, DatabaseError> {
    let mut read =
        db.prepare_cached("SELECT number FROM main.__harmonylite__site_number WHERE site = ?1")?;
    Ok(read.query_row([site], |r| r.get(0)).optional()?)
}

fn give_number(db: &Connection, site: Site) -> Result<i64, DatabaseError> {
    let number = meta::get(db, meta::SITE_NUMBER)?.unwrap_or(0) - 1;
    meta::set(db, meta::SITE_NUMBER, number)?;
    db.prepare_cached(
        "INSERT INTO main.__harmonylite__site_number (number, site) VALUES (?1, ?2)",
    )?
    .execute(params![number, site])?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::test_database;

    #[test]
    fn each_site_has_a_number_of_its_own_and_keeps_it() {
        let db = test_database();
        let mut numbers = SiteNumbers::default();
        let sites: Vec<Site> = (1..60).map(|i| Site(i64::MAX / i)).collect();
        for (i, site) in sites.iter().enumerate() {
            assert_eq!(numbers.number(&db, *site).unwrap(), -1 - i as i64);
        }
        for mut numbers in [numbers, SiteNumbers::default()] {
            for (i, site) in sites.iter().enumerate() {
                assert_eq!(numbers.site(&db, -1 - i as i64).unwrap(), *site);
                assert_eq!(numbers.number(&db, *site).unwrap(), -1 - i as i64);
            }
        }
        assert_eq!(numbers_in(&db), 59);
    }

    fn numbers_in(db: &Connection) -> i64 {
        let sql = "SELECT count(*) FROM __harmonylite__site_number";
        db.query_row(sql, [], |r| r.get(0)).unwrap()
    }

    #[test]
    fn the_site_itself_is_read_as_well() {
        let db = test_database();
        assert_eq!(SiteNumbers::default().site(&db, 7).unwrap(), Site(7));
        assert_eq!(numbers_in(&db), 0);
    }

    #[test]
    fn a_number_is_not_given_again_after_the_table_was_dropped() {
        let db = test_database();
        assert_eq!(SiteNumbers::default().number(&db, Site(7)).unwrap(), -1);
        db.execute("DELETE FROM __harmonylite__site_number", []).unwrap();
        assert_eq!(SiteNumbers::default().number(&db, Site(8)).unwrap(), -2);
        assert_eq!(SiteNumbers::default().site(&db, -1).unwrap(), Site(0), "nobody knows");
    }
}
