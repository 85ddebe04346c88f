use super::*;
use crate::store::gaps::Missing;
use crate::store::install::create_tables;

const NOW: Now = Now { unix_ms: 1_000_000, mono_ms: 1_000 };

/// Returns node 1 with one gap in stream 1, and the list of members 1, 2, 3.
fn with_a_gap() -> (Connection, Gaps, GapKey) {
    let db = Connection::open_in_memory().unwrap();
    create_tables(&db, std::path::Path::new(":memory:")).unwrap();
    let reason = "messages 5 to 6 are missing";
    let missing = Missing { shard: 1, node: NodeId(2), since_ms: 0, reason };
    gaps::note(&db, missing, 7).unwrap();
    let gaps = Gaps::read(&NodeConfig::for_tests(1), &db).unwrap();
    let key = gaps.open[0].key();
    (db, gaps, key)
}

fn members(ids: &[u64]) -> KvEntry {
    KvEntry { revision: 4, value: serde_json::json!(ids).to_string().into() }
}

fn end(db: &Connection, gaps: &mut Gaps) -> bool {
    let ended = gaps.write_ended(db).unwrap();
    gaps.committed(db, ended, false);
    !gaps.any_open()
}

#[test]
fn an_open_gap_is_asked_about_now_and_every_ten_seconds() {
    let (_db, mut gaps, (gap, noticed_ms)) = with_a_gap();
    let out = gaps.ask(NOW, |_| 4);
    let ask = Signal::Ask { asker: 1, gap, noticed_ms, origin: 2, shard: 1, upto: 4, since_ms: 0 };
    assert!(matches!(&out[0], Outgoing::Signal(signal) if *signal == ask), "{out:?}");
    assert!(matches!(&out[1], Outgoing::Ask(Question::Members, _)), "{out:?}");
    assert!(gaps.ask(NOW, |_| 4).is_empty());
    assert_eq!(gaps.deadline(), NOW.mono_ms + ASK_MS);
    assert_eq!(gaps.ask(Now { mono_ms: NOW.mono_ms + ASK_MS, ..NOW }, |_| 4).len(), 2);
}

#[test]
fn a_whole_answer_ends_it() {
    let (db, mut gaps, key) = with_a_gap();
    assert!(gaps.answered(key, 2, true).is_none());
    assert!(end(&db, &mut gaps));
    assert_eq!(gaps.deadline(), u64::MAX);
}

#[test]
fn an_answer_to_another_question_counts_for_nothing() {
    let (db, mut gaps, (gap, noticed_ms)) = with_a_gap();
    gaps.answered((gap, noticed_ms + 1), 2, true);
    gaps.answered((gap + 1, noticed_ms), 2, true);
    assert!(!end(&db, &mut gaps));
}

#[test]
fn partial_answers_end_it_once_every_member_has_answered() {
    let (db, mut gaps, key) = with_a_gap();
    gaps.ask(NOW, |_| 4);
    gaps.answered(key, 2, false);
    let out = gaps.members_read(Some(&members(&[1, 2, 3])));
    assert!(matches!(out[..], [Outgoing::Ask(Question::LastSeen(NodeId(3)), _)]), "{out:?}");
    assert!(!end(&db, &mut gaps), "node 3 has not answered");
    assert!(gaps.describe()[0].ends_with("not answered yet by node 3"));
    gaps.answered(key, 3, false);
    gaps.members_read(Some(&members(&[1, 2, 3])));
    assert!(end(&db, &mut gaps));
}

#[test]
fn a_member_that_is_gone_is_not_waited_for() {
    let (db, mut gaps, key) = with_a_gap();
    gaps.answered(key, 2, false);
    gaps.members_read(Some(&members(&[1, 2, 3])));
    let entry = |updated_at: i64| KvEntry {
        revision: 1,
        value: serde_json::json!({ "updated_at": updated_at }).to_string().into(),
    };
    let later = Now { unix_ms: 2 * GONE_MS_MIN, ..NOW };
    gaps.last_seen(NodeId(3), Some(&entry(later.unix_ms / 1_000 - 60)), later);
    gaps.members_read(Some(&members(&[1, 2, 3])));
    assert!(!end(&db, &mut gaps), "seen a minute ago");
    gaps.last_seen(NodeId(3), Some(&entry(1)), later);
    gaps.members_read(Some(&members(&[1, 2, 3])));
    assert!(end(&db, &mut gaps));
}

#[test]
fn being_alone_is_believed_after_three_questions() {
    let (db, mut gaps, _) = with_a_gap();
    for times in 1..=ALONE_ASKS {
        assert!(!end(&db, &mut gaps), "{times}");
        gaps.ask(Now { mono_ms: u64::from(times) * ASK_MS * 2, ..NOW }, |_| 0);
        gaps.members_read(None);
    }
    assert!(end(&db, &mut gaps));
}

#[test]
fn whoever_reads_the_list_puts_itself_and_its_origins_back() {
    let (_db, mut gaps, _) = with_a_gap();
    gaps.saw_origin(NodeId(9), 5);
    let out = gaps.members_read(Some(&members(&[2])));
    let Outgoing::Ask(Question::MembersPut, Request::KvPut { value, expected, .. }) = &out[0]
    else {
        panic!("{out:?}")
    };
    assert_eq!((&value[..], *expected), (&b"[1,2,9]"[..], Some(4)));
    assert!(!gaps.is_enrolled());
    gaps.members_written();
    assert!(gaps.is_enrolled());
}

#[test]
fn an_end_that_is_rolled_back_is_written_by_the_next_transaction() {
    let (db, mut gaps, key) = with_a_gap();
    gaps.answered(key, 2, true);
    db.execute_batch("BEGIN").unwrap();
    gaps.write_ended(&db).unwrap();
    db.execute_batch("ROLLBACK").unwrap();
    assert!(gaps.any_ended());
    assert!(end(&db, &mut gaps));
}

#[test]
fn rounds_of_a_repair_without_end_wait_longer_and_longer() {
    let (db, mut gaps, _) = with_a_gap();
    let mut now = NOW;
    let mut waits = Vec::new();
    for round in 0..12 {
        gaps.ask(now, |_| 4);
        // More is found missing, which makes it another gap.
        let missing = Missing { shard: 1, node: NodeId(2), since_ms: 0, reason: "again" };
        gaps::note(&db, missing, 100 + round).unwrap();
        gaps.committed(&db, 0, true);
        let due_ms = gaps.deadline().max(now.mono_ms);
        waits.push((due_ms - now.mono_ms) / 1_000);
        now.mono_ms = due_ms;
    }
    assert_eq!(waits, [0, 0, 10, 20, 40, 80, 160, 320, 600, 600, 600, 600]);
    now.mono_ms += CALM_MS;
    gaps.ask(now, |_| 4);
    assert_eq!(gaps.rounds, 1, "after a calm time it begins again");
}

/// Other nodes are asked only after a snapshot was looked for, or was given up; never without end.
#[test]
fn a_snapshot_is_looked_for_before_other_nodes_are_asked() {
    let (_db, mut gaps, key) = with_a_gap();
    gaps.snapshots = true;
    assert!(gaps.open().is_empty(), "what is missing is not known yet");
    let missing = MissingBatches { site: Site(5), upto: BatchNo(3), before: 12 };
    gaps.found(&[(1, Need::Batches(missing))], NOW, |_| 77);
    let needs = Needs { position: 0, created_ns: 77, batches: vec![missing] };
    assert_eq!(gaps.open()[0].needs, needs, "no more than these batches");
    let [upto_9, upto_4] = [9, 4].map(|seq| Need::Messages(StreamSeq(seq)));
    gaps.found(&[(1, upto_9), (1, upto_4), (2, upto_9)], NOW, |_| 77);
    let needs = Needs { position: 9, created_ns: 77, batches: vec![missing] };
    assert_eq!(gaps.open(), [OpenGap { key, shard: 1, needs }]);
    let later = |ms| Now { mono_ms: NOW.mono_ms + ms, ..NOW };
    assert!(gaps.ask(later(LOOK_MS - 1), |_| 4).is_empty());
    gaps.snapshot_is_read(later(LOOK_MS - 1));
    assert!(gaps.ask(later(LOOK_MS + READ_MS - 2), |_| 4).is_empty());
    assert_eq!(gaps.ask(later(LOOK_MS + READ_MS - 1), |_| 4).len(), 2, "it was given up");

    gaps.found(&[(1, Need::Messages(StreamSeq(2)))], NOW, |_| 78);
    let needs = Needs { position: 2, created_ns: 78, batches: Vec::new() };
    assert_eq!(gaps.open()[0].needs, needs, "positions of the former stream are void");
    gaps.no_snapshot();
    assert_eq!(gaps.ask(later(LOOK_MS + READ_MS + ASK_MS), |_| 4).len(), 2);
    assert!(gaps.answered(key, 1, true).is_none());
    assert!(gaps.any_ended());
}
