//! `harmonylite reset-versions`: brings back rows whose versions lie in the far future.

use super::exit::{Exit, Failure};
use super::{database, progress, show};
use crate::capture::install;
use crate::clock;
use crate::model::ids::Hlc;
use crate::settings::Settings;
use crate::store::far_versions::{BroughtBack, bring_back};
use crate::store::install::create_tables;
use anyhow::{Context, Result};
use rusqlite::TransactionBehavior;
use std::process::ExitCode;

/// Gives these rows versions of now, and logs them for publication. The node may run.
pub(crate) fn run(settings: &Settings) -> Result<ExitCode> {
    let name = format!("working on {}", settings.db_path.display());
    let back = progress::during(&name, || reset(settings, clock::unix_ms()))?;
    let now = show::moment(clock::unix_ms());
    show::print(&match back {
        BroughtBack { rows: 0, changes: 0 } => {
            format!("no version is more than ten years ahead of this machine's clock ({now})\n")
        }
        BroughtBack { rows, changes } => format!(
            "{rows} rows and {changes} unpublished changes were more than ten years ahead of this \
            machine's clock ({now}); they have the present time now, and replace the rows of the \
            other nodes\n"
        ),
    });
    Ok(ExitCode::SUCCESS)
}

fn reset(settings: &Settings, now_ms: i64) -> Result<BroughtBack> {
    let name = || settings.db_path.display().to_string();
    let mut db = database::open_installed(&settings.db_path)?;
    let transaction =
        db.transaction_with_behavior(TransactionBehavior::Immediate).with_context(name)?;
    // The node may not have run since an upgrade.
    create_tables(&transaction, &settings.db_path).with_context(name)?;
    let filter = settings.table_filter()?;
    let layout = install::load(&transaction, &filter).with_context(name)?.ok_or_else(|| {
        Failure::new(
            Exit::General,
            format!("the schema of {} has changed since a node ran with it", name()),
            "start the node, wait a moment, and run this command again",
        )
    })?;
    let back = bring_back(&transaction, &layout, Hlc::newest_at(now_ms), now_ms)?;
    transaction.commit().with_context(name)?;
    Ok(back)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::Site;
    use crate::model::table_filter::TableFilter;
    use crate::store::sites::begin_site;
    use rusqlite::Connection;

    /// Row 1 has a version of the year 4199, row 2 one of now; row 3 was written by a clock in the
    /// year 5000, and its change is not absorbed.
    #[test]
    fn only_what_lies_in_the_far_future_gets_the_present_time() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, a)").unwrap();
        create_tables(&db, std::path::Path::new(":memory:")).unwrap();
        begin_site(&db, Site(7), 0).unwrap();
        let (layout, _) = install::install(&db, &TableFilter::default(), 0).unwrap();
        let (now, bound) = (1_700_000_000_000, Hlc::newest_at(1_700_000_000_000));
        let far = Hlc::FOREIGN_MAX;
        db.execute_batch(&format!(
            "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');
             DELETE FROM __harmonylite__change_log WHERE key0 < 3;
             UPDATE __harmonylite__change_log SET time = 95617584000000;
             INSERT INTO __harmonylite__t_version (key0, hlc, site) VALUES (1, {far}, 9), \
             (2, {}, 9)",
            Hlc::from_ms(now)
        ))
        .unwrap();
        let back = bring_back(&db, &layout, bound, now + 5).unwrap();
        assert_eq!(back, BroughtBack { rows: 1, changes: 1 });
        let sql = "SELECT group_concat(key0 || ' ' || (hlc >> 16) || ' ' || site, ', ') FROM \
            (SELECT * FROM __harmonylite__t_version ORDER BY key0)";
        let versions: String = db.query_row(sql, [], |r| r.get(0)).unwrap();
        assert_eq!(versions, format!("1 {} -1, 2 {now} 9", now + 5));
        let sql = "SELECT group_concat(key0 || ' ' || table_id || ' ' || time, ', ') FROM \
            (SELECT * FROM __harmonylite__change_log ORDER BY id)";
        let log: String = db.query_row(sql, [], |r| r.get(0)).unwrap();
        assert_eq!(log, format!("3 1 {}, 1 -10 0", now + 5), "the change, and the row to publish");
        let again = bring_back(&db, &layout, bound, now + 6).unwrap();
        assert_eq!(again, BroughtBack::default(), "once is enough");
    }
}
