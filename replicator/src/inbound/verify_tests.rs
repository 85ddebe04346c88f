use super::*;
use crate::broker::{Message, StreamState};
use crate::model::batch::PartHeaders;
use crate::model::ids::StreamSeq;
use crate::repair::verdict::{Confirmed, Published};
use crate::store::install::create_tables;
use crate::store::sites::begin_site;
use rusqlite::Connection;

const NOW: Now = Now { unix_ms: 0, mono_ms: 1_000 };

fn fresh() -> (Durable, NodeConfig, Verify) {
    let db = Connection::open_in_memory().unwrap();
    create_tables(&db, std::path::Path::new(":memory:")).unwrap();
    begin_site(&db, Site(7), 0).unwrap();
    let config = NodeConfig { shards: 1, ..NodeConfig::for_tests(1) };
    let durable = Durable::read(&db, &config).unwrap();
    let verify = Verify::new(&config, Site(7), Box::new(|| 4));
    (durable, config, verify)
}

fn empty_stream() -> Reply {
    Reply::State(StreamState {
        created_ns: 1,
        first: StreamSeq(1),
        last: StreamSeq(0),
        last_time_ns: 0,
        kept_since_ns: 0,
    })
}

/// Answers each question of a check, as an empty broker.
fn answer(verify: &mut Verify, questions: Vec<Outgoing>) {
    for out in questions {
        let Outgoing::Ask(question, _) = out else { panic!("{out:?}") };
        let reply = match question {
            Question::State(_) => empty_stream(),
            Question::LastOwn => Reply::Message(None),
            Question::Registry => Reply::Kv(None),
            other => panic!("{other:?}"),
        };
        verify.evidence(question, reply);
    }
}

#[test]
fn a_check_waits_for_outbound_and_for_what_was_delivered_before() {
    let (_, _, mut verify) = fresh();
    let Effect::Hold { check, connection: 1 } = verify.connected() else { panic!() };
    assert!(!verify.may_check(false, false), "outbound has not confirmed");
    verify.outbound_holds(check);
    assert!(!verify.may_check(true, false) && !verify.may_check(false, true));
    assert!(verify.may_check(false, false));
    verify.begin_check();
    assert!(!verify.may_check(false, false), "that was an older check");
}

#[test]
fn a_new_database_passes_on_an_empty_broker() {
    let (durable, config, mut verify) = fresh();
    verify.connected();
    let questions = verify.check(&durable, &[(1, None)], 1);
    answer(&mut verify, questions);
    assert!(verify.trail_to_ask(&durable, true).is_none(), "the lease is not held");
    verify.lease_written(3, NOW);
    assert!(verify.trail_to_ask(&durable, false).is_none(), "not on the list of members");
    assert!(verify.trail_to_ask(&durable, true).is_some_and(|out| out.is_empty()));
    assert!(!verify.knows_incarnation());
    verify.judge(&durable, &config, false).unwrap();
    let verdict = verify.verdict().unwrap();
    assert!(!verdict.behind_broker && !verdict.own_lost);
    assert!(verify.knows_incarnation() && !verify.is_up());
    let go = verify.pass(&durable);
    assert!(matches!(go, Effect::Go { check: 1, site: Site(7), .. }), "{go:?}");
    assert!(verify.is_up() && verify.passed() == 1);
}

#[test]
fn a_question_without_an_answer_is_repeated_after_half_a_second() {
    let (durable, _, mut verify) = fresh();
    verify.connected();
    verify.check(&durable, &[(1, None)], 1);
    verify.not_answered(NOW);
    assert!(!verify.retries(NOW));
    assert!(verify.retries(Now { mono_ms: NOW.mono_ms + RETRY_MS, ..NOW }));
}

#[test]
fn the_lease_is_renewed_in_time_and_a_second_node_refused() {
    let (_, _, mut verify) = fresh();
    assert!(verify.renew_lease(NOW, true).is_none(), "it is being asked for");
    let read = verify.renew_lease(NOW, false);
    assert!(matches!(read, Some(Outgoing::Ask(Question::Lease, _))), "{read:?}");
    verify.lease_written(3, NOW);
    assert!(verify.renew_lease(NOW, false).is_none());
    let third = Now { mono_ms: NOW.mono_ms + 10_000 / 3, ..NOW };
    let renewed = verify.renew_lease(third, false);
    assert!(matches!(renewed, Some(Outgoing::Ask(Question::LeasePut, _))), "{renewed:?}");
    let other = br#"{"site":9,"instance":"that","place":"elsewhere"}"#;
    let entry = KvEntry { revision: 4, value: other[..].into() };
    let refused = verify.lease_read(Some(&entry), NOW);
    assert!(matches!(refused, Err(Fatal::SecondNode { place, .. }) if place == "elsewhere"));
}

#[test]
fn nothing_is_due_without_a_connection() {
    let (_, _, mut verify) = fresh();
    assert_eq!(verify.deadline(), u64::MAX);
    verify.connected();
    verify.disconnected();
    assert!(verify.is_down() && verify.deadline() == u64::MAX);
}

/// Returns the verdict on a database that knows batch 2, while the newest own message in the stream
/// is this part of batch 5.
fn verdict_with(part: u32, has_mark: bool, registry: Option<u64>) -> Verdict {
    let (mut durable, config, mut verify) = fresh();
    durable.batch = BatchNo(2);
    verify.connected();
    let questions = verify.check(&durable, &[(1, None)], 1);
    let headers = PartHeaders {
        site: Site(7),
        batch: BatchNo(5),
        part,
        parts: 2,
        total_bytes: 2,
        digest: [0; 32],
        log: Some(LogMark { id: 40, hash: 1 }),
    };
    let message = Message {
        shard: 1,
        seq: StreamSeq(9),
        time_ns: 0,
        node: config.node,
        headers: Ok(headers),
        payload: bytes::Bytes::new(),
    };
    let entry = registry.map(|batch| KvEntry {
        revision: 1,
        value: format!(r#"{{"site":7,"batch":{batch}}}"#).into(),
    });
    for out in questions {
        let Outgoing::Ask(question, _) = out else { panic!("{out:?}") };
        let reply = match question {
            Question::LastOwn => Reply::Message(Some(message.clone())),
            Question::Registry => Reply::Kv(entry.clone()),
            _ => empty_stream(),
        };
        verify.evidence(question, reply);
    }
    verify.lease_written(3, NOW);
    assert!(verify.trail_to_ask(&durable, true).is_some_and(|out| out.is_empty()));
    assert_eq!(verify.last_own_mark(), Some(LogMark { id: 40, hash: 1 }));
    verify.judge(&durable, &config, has_mark).unwrap();
    let State::Judged(verdict) = verify.state else { panic!() };
    *verdict
}

/// A process that was killed before it stored acknowledgements has a database that knows less than
/// the stream. So has one that went back in time; only that one lacks the log entry.
#[test]
fn only_a_database_without_the_log_entry_went_back_in_time() {
    let published = Some(Published { upto: 40, seq: StreamSeq(9) });
    for (part, has_mark, registry, behind, confirmed) in [
        (2, true, None, false, Some(Confirmed { batch: BatchNo(5), published })),
        (1, true, None, false, Some(Confirmed { batch: BatchNo(4), published: None })),
        (2, true, Some(5), false, Some(Confirmed { batch: BatchNo(5), published })),
        (2, true, Some(6), true, None),
        (2, false, None, true, None),
        (1, false, None, true, None),
    ] {
        let verdict = verdict_with(part, has_mark, registry);
        let found = (verdict.behind_broker, verdict.confirmed);
        assert_eq!(found, (behind, confirmed), "{part} {has_mark} {registry:?}");
    }
}
