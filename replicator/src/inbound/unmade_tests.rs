use super::*;
use crate::capture::install;
use crate::db::layout::Layout;
use crate::db::schema_change::ChangeSet;
use crate::inbound::adopt_schema::{Adoption, adopt};
use crate::inbound::after_commit::AfterCommit;
use crate::inbound::durable::Durable;
use crate::inbound::stats::Stats;
use crate::inbound::unmade_retry::UnmadeRetry;
use crate::model::batch::BatchHeader;
use crate::model::config::{NodeConfig, Now};
use crate::model::ids::{BatchNo, Site};
use crate::store::{sites, test_database};
use globset::{Glob, GlobSet};
use std::sync::Arc;

/// A node that keeps a table `report` to itself.
struct Peer {
    db: Connection,
    config: NodeConfig,
    batch: u64,
}

fn peer() -> Peer {
    let db = test_database();
    db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE report (x)")
        .unwrap();
    sites::begin_site(&db, Site(7), 0).unwrap();
    let mut config = NodeConfig::for_tests(1);
    config.schema_mode = SchemaMode::All;
    config.filter.exclude = GlobSet::builder().add(Glob::new("report").unwrap()).build().unwrap();
    Peer { db, config, batch: 0 }
}

impl Peer {
    fn layout(&self) -> Arc<Layout> {
        Arc::new(install::install(&self.db, &self.config.filter, 0).unwrap().0)
    }

    fn run<R>(
        &self,
        unix_ms: i64,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<R, Fatal>,
    ) -> (R, AfterCommit) {
        let durable = Durable::read(&self.db, &self.config).unwrap();
        let (layout, now) = (self.layout(), Now { unix_ms, mono_ms: 0 });
        let copies = (&durable, &Stats::default());
        let tx = Transaction::new(&self.db, &self.config, &layout, copies, now);
        let mut result = None;
        let work = |tx: &mut Transaction<'_>| {
            result = Some(work(tx)?);
            Ok(())
        };
        let committed = tx.run(work, |_| true).unwrap().unwrap();
        (result.unwrap(), committed.after)
    }

    /// Receives changes of node 2. Returns what was made in words, and whether something was not.
    fn receives(&mut self, changes: &[SchemaChange]) -> (Vec<String>, bool) {
        let set = set_of_changes(self.batch.cast_signed(), changes);
        self.receives_sets(vec![set])
    }

    fn receives_sets(&mut self, schema_changes: Vec<Vec<u8>>) -> (Vec<String>, bool) {
        self.batch += 1;
        let header = BatchHeader {
            node: NodeId(2),
            site: Site(9),
            number: BatchNo(self.batch),
            previous: BatchNo(self.batch - 1),
            schema_hash: [0; 32],
            created_ms: 0,
            further_sites: Vec::new(),
            schema_changes,
        };
        let (made, _) = self.run(self.batch.cast_signed() * 1_000, |tx| adopt(tx, &header));
        let Adoption::Made { adopted, unmade } = made else { panic!("it is not held") };
        (adopted.map_or(Vec::new(), |adopted| adopted.words), unmade)
    }

    /// Tries again. Returns what was made, and whether something is left.
    fn retries(&self) -> (Vec<String>, bool) {
        let ((), after) = self.run(9_000, retry);
        let words = after.adopted.into_iter().flat_map(|adopted| adopted.words).collect();
        (words, after.unmade_tried.unwrap())
    }

    fn missing(&self) -> Vec<(i64, String, String)> {
        let listed = unmade_objects::list(&self.db).unwrap();
        listed.into_iter().map(|u| (u.since_ms, u.change, u.error)).collect()
    }
}

fn set_of_changes(log_id: i64, changes: &[SchemaChange]) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(&ChangeSet((9, log_id, 0), changes.to_vec()), &mut bytes).unwrap();
    bytes
}

fn view(sql: &str) -> SchemaChange {
    SchemaChange::CreateView { name: "report".into(), sql: sql.into() }
}

fn trigger() -> SchemaChange {
    SchemaChange::CreateTrigger {
        name: "on_report".into(),
        table: "report".into(),
        sql: "CREATE TRIGGER on_report INSTEAD OF INSERT ON report BEGIN INSERT INTO t (v) VALUES \
            (NEW.v); END"
            .into(),
    }
}

fn index() -> SchemaChange {
    let sql = "CREATE INDEX by_v ON t (json_extract(v, '$.a'))".to_owned();
    SchemaChange::CreateIndex { name: "by_v".into(), table: "t".into(), sql }
}

fn table() -> SchemaChange {
    let sql = "CREATE TABLE extra (id INTEGER PRIMARY KEY)".to_owned();
    SchemaChange::CreateTable { name: "extra".into(), sql }
}

#[test]
fn what_cannot_be_made_is_kept_in_mind_and_the_rest_is_made() {
    let mut peer = peer();
    peer.db.execute("INSERT INTO t (v) VALUES ('no JSON')", []).unwrap();
    let changes = [view("CREATE VIEW report AS SELECT v FROM t"), trigger(), table(), index()];
    let (made, unmade) = peer.receives(&changes);
    assert_eq!(made, ["create table extra"]);
    assert!(unmade);
    let missing = peer.missing();
    let expected = [
        (1_000, "create view report", "report"),
        (1_000, "create trigger on_report on report", "report"),
        (1_000, "create index by_v on t", "malformed JSON"),
    ];
    assert_eq!(missing.len(), expected.len(), "{missing:?}");
    for (found, expected) in missing.iter().zip(expected) {
        assert_eq!((found.0, found.1.as_str()), (expected.0, expected.1));
        assert!(found.2.contains(expected.2), "{missing:?}");
    }
    assert_eq!(peer.retries(), (Vec::new(), true), "nothing has changed");
    assert_eq!(peer.missing(), missing, "and nothing is written");

    // Rows of the table decide about the index, the table here about the view.
    peer.db.execute("UPDATE t SET v = '{}'", []).unwrap();
    assert_eq!(peer.retries(), (vec!["create index by_v on t".to_owned()], true));
    peer.db.execute_batch("DROP TABLE report").unwrap();
    let both = ["create view report", "create trigger on_report on report"];
    assert_eq!(peer.retries(), (both.map(str::to_owned).to_vec(), false));
    assert!(peer.missing().is_empty());
    peer.db.execute("INSERT INTO report VALUES ('[]')", []).unwrap();
}

#[test]
fn what_its_origin_drops_or_somebody_makes_is_forgotten() {
    let mut peer = peer();
    assert!(peer.receives(&[view("CREATE VIEW report AS SELECT 1"), trigger()]).1);
    peer.receives(&[SchemaChange::DropTrigger { name: "on_report".into() }]);
    assert_eq!(peer.missing().len(), 1);
    let (made, unmade) = peer.receives(&[
        SchemaChange::DropView { name: "report".into() },
        view("CREATE VIEW report AS SELECT 2"),
    ]);
    assert!(made.is_empty() && unmade);
    let listed = unmade_objects::list(&peer.db).unwrap();
    assert_eq!(listed[0].statement, "CREATE VIEW report AS SELECT 2");
    assert_eq!((listed.len(), listed[0].node_id, listed[0].since_ms), (1, 2, 3_000));
    let reason = listed[0].reason();
    assert!(reason.contains("node 2") && reason.contains("create view report"), "{reason}");

    peer.receives(&[trigger()]);
    peer.receives(&[SchemaChange::DropView { name: "report".into() }]);
    assert!(peer.missing().is_empty(), "its trigger goes with it");

    peer.receives(&[trigger()]);
    peer.db
        .execute_batch("CREATE TRIGGER on_report AFTER INSERT ON report BEGIN SELECT 1; END")
        .unwrap();
    assert_eq!(peer.retries(), (Vec::new(), false), "made by hand, on a table of this node only");
    assert!(peer.missing().is_empty());

    peer.receives(&[view("CREATE VIEW report AS SELECT 1")]);
    peer.config.schema_mode = SchemaMode::Off;
    assert_eq!(peer.retries(), (Vec::new(), false), "no migration is followed");
    assert!(peer.missing().is_empty());
}

/// A change of a table fails, so nothing of the batch is made; its rows fit, so it is applied.
#[test]
fn what_goes_with_a_table_that_cannot_be_changed_is_kept_in_mind() {
    let peer = peer();
    peer.db.execute_batch("INSERT INTO t (v) VALUES (1), (1)").unwrap();
    let unique = SchemaChange::CreateIndex {
        name: "u".into(),
        table: "t".into(),
        sql: "CREATE UNIQUE INDEX u ON t (v)".into(),
    };
    let index = index();
    let changes = [index.clone(), unique];
    let (unmade, _) = peer.run(5, |tx| {
        let reason = match make_inside(tx, &changes, SchemaMode::All)? {
            Made::Impossible(reason) => reason,
            _ => panic!("two rows are equal"),
        };
        note(tx, NodeId(2), &changes, |_| Some(reason.clone()))
    });
    assert!(unmade);
    let missing = peer.missing();
    assert_eq!(missing.len(), 1, "the unique index differs in the schema's hash");
    assert!(missing[0].2.contains("UNIQUE constraint failed"), "{missing:?}");
    assert_eq!(peer.retries(), (vec![index.words()], false));
}

#[test]
fn attempts_come_at_growing_distances_and_after_every_change_of_the_schema() {
    let at = |mono_ms| Now { unix_ms: 0, mono_ms };
    let db = test_database();
    let mut retry = UnmadeRetry::read(&db).unwrap();
    retry.schema_changed();
    assert_eq!(retry.deadline(), u64::MAX, "there is nothing to make");
    retry.noted(at(1_000));
    assert_eq!(retry.deadline(), 16_000);
    retry.tried(true, at(16_000));
    assert_eq!(retry.deadline(), 31_000);
    retry.tried(true, at(31_000));
    assert_eq!(retry.deadline(), 61_000);
    for _ in 0..9 {
        retry.tried(true, at(100_000));
    }
    assert_eq!(retry.deadline(), 700_000);
    retry.schema_changed();
    assert_eq!(retry.deadline(), 0);
    retry.tried(false, at(100_000));
    assert_eq!(retry.deadline(), u64::MAX);

    let change = view("CREATE VIEW report AS SELECT 1");
    put(&db, &Unmade { node: NodeId(2), since_ms: 1, change, error: String::new() }).unwrap();
    assert_eq!(UnmadeRetry::read(&db).unwrap().deadline(), 0, "at once after a start");
}

/// Who republishes rows sends all changes again, also those that others have undone since.
#[test]
fn changes_that_come_again_are_passed_over() {
    let mut peer = peer();
    let drop = || SchemaChange::DropTable { name: "extra".into() };
    let sets = || vec![set_of_changes(1, &[table()]), set_of_changes(2, &[drop()])];
    assert_eq!(peer.receives_sets(sets()[..1].to_vec()).0, ["create table extra"]);
    assert_eq!(peer.receives_sets(sets()).0, ["drop table extra, with its rows"]);
    assert_eq!(peer.receives(&[table()]).0, ["create table extra"], "another change");
    assert_eq!(peer.receives_sets(sets()), (Vec::new(), false), "it is not dropped again");
    let extra = "SELECT count(*) FROM extra";
    assert_eq!(peer.db.query_row(extra, [], |r| r.get::<_, i64>(0)).unwrap(), 0);
}

#[test]
fn what_a_later_change_of_the_batch_drops_is_not_missing() {
    let mut peer = peer();
    peer.db.execute("INSERT INTO t (v) VALUES ('no JSON')", []).unwrap();
    let drop = SchemaChange::DropIndex { name: "by_v".into() };
    assert_eq!(peer.receives(&[index(), drop]), (Vec::new(), false));
    assert_eq!(peer.missing(), []);
    let rename = SchemaChange::RenameTable { from: "t".into(), to: "u".into() };
    assert_eq!(peer.receives(&[index(), rename]), (vec!["rename table t to u".to_owned()], true));
    assert_eq!(peer.missing()[0].1, "create index by_v on u");
}
