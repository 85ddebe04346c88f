use super::*;
use crate::capture::install;
use crate::model::batch::PartHeaders;
use crate::model::ids::NodeId;
use crate::store::{sites, test_database};

const SITE: Site = Site(7);
const FOREIGN: Site = Site(900);
const NOW: Now = Now { unix_ms: 1_000, mono_ms: 50_000 };

#[derive(Default)]
struct Recorder(Vec<(Ticket, Request)>);

impl Broker for Recorder {
    fn request(&mut self, ticket: Ticket, request: Request) {
        self.0.push((ticket, request));
    }

    fn max_payload_bytes(&self) -> usize {
        1 << 20
    }
}

struct Node(Outbound<Recorder>);

/// What was asked of the broker: a publication with its headers and its fence.
struct Sent {
    ticket: Ticket,
    headers: PartHeaders,
    fence: u64,
}

impl Node {
    fn with(config: NodeConfig) -> Self {
        let db = test_database();
        db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, a)").unwrap();
        install::install(&db, &config.filter, 0).unwrap();
        sites::begin_site(&db, SITE, 0).unwrap();
        Self(Outbound::new(config, db, Recorder::default()).unwrap())
    }

    /// One row waits to be published.
    fn new() -> Self {
        let node = Self::with(NodeConfig::for_tests(1));
        node.write();
        node
    }

    /// The broker was checked and holds nothing of ours.
    fn ready() -> Self {
        let mut node = Self::new();
        node.all([CONNECTED, hold(1, 1), go(1)]);
        node.found(None);
        node
    }

    fn write(&self) {
        self.0.db.execute("INSERT INTO t (a) VALUES (1)", []).unwrap();
    }

    fn all<const N: usize>(&mut self, inputs: [Does; N]) {
        for input in inputs {
            self.0.handle(input.into(), NOW).unwrap();
        }
    }

    fn reply(&mut self, ticket: Ticket, reply: Result<Reply, BrokerError>) -> Result<(), Fatal> {
        self.0.handle(Input::Broker(BrokerEvent::Reply(ticket, reply)), NOW)
    }

    fn asked(&mut self) -> Vec<(Ticket, Request)> {
        std::mem::take(&mut self.0.broker.0)
    }

    /// Answers the question where the own subject is, which must be the only one.
    fn found_or(&mut self, last: Option<Message>) -> Result<(), Fatal> {
        let asked = self.asked();
        let [(ticket, Request::LastOwn { shard: 2 })] = asked[..] else { panic!("{asked:?}") };
        self.reply(ticket, Ok(Reply::Message(last)))
    }

    fn found(&mut self, last: Option<Message>) {
        self.found_or(last).unwrap();
    }

    fn step(&mut self, mono_ms: u64) -> Step {
        self.0.step(Now { mono_ms, ..NOW }).unwrap()
    }

    /// The only request is a publication.
    fn sent(&mut self) -> Sent {
        let mut asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        match asked.remove(0) {
            (ticket, Request::Publish { headers, expected_last, payload, shard: 2 }) => {
                assert!(!payload.is_empty());
                Sent { ticket, headers, fence: expected_last.0 }
            }
            other => panic!("{other:?}"),
        }
    }

    fn publish(&mut self) -> Sent {
        assert_eq!(self.step(NOW.mono_ms), Step::Worked);
        self.sent()
    }

    /// The positions that were acknowledged to inbound.
    fn acknowledged(&mut self) -> Vec<u64> {
        let outputs = std::mem::take(&mut self.0.outputs);
        let seq = |o| if let Output::Acknowledged(ack) = o { ack.seq.map(|s| s.0) } else { None };
        outputs.into_iter().filter_map(seq).collect()
    }
}

/// Inputs that can be written in a table.
#[derive(Clone, Copy, Debug)]
enum Does {
    Connected,
    Disconnected,
    Hold(u64, u64),
    Go(u64),
    Wake,
}

use Does::{Connected as CONNECTED, Disconnected as DISCONNECTED, Wake as WAKE};

fn hold(check: u64, connection: u64) -> Does {
    Does::Hold(check, connection)
}

fn go(check: u64) -> Does {
    Does::Go(check)
}

impl From<Does> for Input {
    fn from(does: Does) -> Self {
        match does {
            Does::Connected => Self::Broker(BrokerEvent::Connected),
            Does::Disconnected => Self::Broker(BrokerEvent::Disconnected("gone".to_owned())),
            Does::Hold(check, connection) => Self::Effect(Effect::Hold { check, connection }),
            Does::Go(check) => {
                Self::Effect(Effect::Go { check, site: SITE, batch: BatchNo(0), published: 0 })
            }
            Does::Wake => Self::Wake,
        }
    }
}

fn message(seq: u64, headers: PartHeaders) -> Option<Message> {
    Some(Message {
        shard: 2,
        seq: StreamSeq(seq),
        time_ns: 0,
        node: NodeId(1),
        headers: Ok(headers),
        payload: bytes::Bytes::new(),
    })
}

fn unreachable() -> Result<Reply, BrokerError> {
    Err(BrokerError::Unreachable("no answer in time".to_owned()))
}

fn published(seq: u64) -> Result<Reply, BrokerError> {
    Ok(Reply::Published(StreamSeq(seq)))
}

/// Which checks it has held still for, and whether it begins after these inputs.
#[test]
fn it_begins_only_after_the_go_ahead_of_the_check_that_it_holds_still_for() {
    for (inputs, held, begins) in [
        (vec![], vec![], false),
        (vec![CONNECTED], vec![], false),
        (vec![CONNECTED, WAKE], vec![], false),
        (vec![CONNECTED, hold(1, 1)], vec![1], false),
        (vec![CONNECTED, hold(1, 1), go(1)], vec![1], true),
        (vec![hold(1, 1), CONNECTED, go(1)], vec![1], true),
        (vec![CONNECTED, go(1)], vec![], false),
        (vec![CONNECTED, hold(2, 1), go(1)], vec![2], false),
        (vec![CONNECTED, hold(1, 1), hold(2, 1), go(1)], vec![1, 2], false),
        (vec![CONNECTED, hold(1, 1), hold(2, 1), go(1), go(2)], vec![1, 2], true),
        (vec![CONNECTED, hold(1, 2), go(1)], vec![], false),
        (vec![CONNECTED, hold(1, 2), CONNECTED, go(1)], vec![1], true),
        (vec![CONNECTED, hold(1, 1), CONNECTED, go(1)], vec![1], false),
        (vec![CONNECTED, hold(1, 1), DISCONNECTED, go(1)], vec![1], false),
        (vec![CONNECTED, DISCONNECTED, hold(1, 1), go(1)], vec![], false),
    ] {
        let mut node = Node::new();
        for input in &inputs {
            node.all([*input]);
        }
        let seen = std::mem::take(&mut node.0.outputs);
        let seen = seen.into_iter().filter(|o| *o != Output::Wake).collect::<Vec<_>>();
        assert_eq!(seen, held.into_iter().map(Output::Held).collect::<Vec<_>>(), "{inputs:?}");
        assert_eq!(node.step(NOW.mono_ms), Step::Idle, "{inputs:?}");
        if begins {
            node.found(None);
            assert_eq!(node.publish().fence, 0, "{inputs:?}");
        } else {
            assert!(node.asked().is_empty(), "{inputs:?}");
        }
    }
}

#[test]
fn one_batch_is_in_flight_and_the_next_stands_behind_it() {
    let mut node = Node::ready();
    let first = node.publish();
    assert_eq!((first.headers.site, first.headers.batch), (SITE, BatchNo(1)));
    node.write();
    node.all([WAKE]);
    assert_eq!((node.step(NOW.mono_ms), node.asked().len()), (Step::Idle, 0));
    // An answer to another question is none.
    node.reply(first.ticket + 1, published(9)).unwrap();
    assert!(node.acknowledged().is_empty());
    node.reply(first.ticket, published(12)).unwrap();
    assert_eq!(node.acknowledged(), [12]);
    let second = node.publish();
    assert_eq!((second.headers.batch, second.fence), (BatchNo(2), 12));
    node.reply(second.ticket, published(15)).unwrap();
    assert_eq!((node.acknowledged(), node.0.is_drained()), (vec![15], true));
    assert_eq!(node.0.stats.batches_published, 2);
}

/// A row that changed again after the end of a cut batch is not in it (simulation, seed 30688).
#[test]
fn a_cut_batch_does_not_say_how_far_the_log_is_published() {
    let mut config = NodeConfig::for_tests(1);
    config.limits.batch_entries_max = 1;
    let mut node = Node::with(config);
    node.write();
    node.write();
    node.all([CONNECTED, hold(1, 1), go(1)]);
    node.found(None);
    let mut marked = Vec::new();
    while node.step(0) == Step::Worked {
        let sent = node.sent();
        marked.push(sent.headers.log.is_some());
        node.reply(sent.ticket, published(marked.len() as u64)).unwrap();
    }
    assert_eq!(marked, [false, true]);
}

#[test]
fn each_part_stands_behind_the_one_before() {
    let mut config = NodeConfig::for_tests(1);
    config.limits.part_bytes_max = 40;
    let mut node = Node::with(config);
    node.write();
    node.all([CONNECTED, hold(1, 1), go(1)]);
    node.found(None);
    let mut sent = node.publish();
    let parts = sent.headers.parts;
    assert!(parts > 2);
    for part in 1..=parts {
        let fence = if part == 1 { 0 } else { u64::from(part) * 10 - 10 };
        assert_eq!((sent.headers.part, sent.fence), (part, fence));
        assert!(node.acknowledged().is_empty());
        node.reply(sent.ticket, published(u64::from(part) * 10)).unwrap();
        if part < parts {
            sent = node.sent();
        }
    }
    assert_eq!(node.acknowledged(), [u64::from(parts) * 10]);
}

/// What the broker holds afterwards, and whether the batch is sent again, behind it.
#[test]
fn after_an_unknown_result_it_sends_only_what_did_not_arrive() {
    type Change = fn(PartHeaders) -> Option<PartHeaders>;
    let cases: [(&str, Change, bool); 6] = [
        ("nothing", |_| None, true),
        ("the batch", Some, false),
        ("the batch before", |h| Some(PartHeaders { batch: BatchNo(0), ..h }), true),
        ("other bytes", |h| Some(PartHeaders { digest: [1; 32], ..h }), true),
        ("another life", |h| Some(PartHeaders { site: Site(6), ..h }), true),
        ("the first part", |h| Some(PartHeaders { parts: 2, ..h }), true),
    ];
    for (what, holds, again) in cases {
        let mut node = Node::ready();
        let first = node.publish();
        node.reply(first.ticket, unreachable()).unwrap();
        assert_eq!((node.step(NOW.mono_ms + RETRY_MS - 1), node.asked().len()), (Step::Idle, 0));
        assert_eq!(node.0.deadline(), NOW.mono_ms + RETRY_MS);
        assert_eq!(node.step(NOW.mono_ms + RETRY_MS), Step::Worked);
        let last = holds(first.headers.clone()).and_then(|h| message(33, h));
        let fence = if last.is_some() { 33 } else { 0 };
        node.found(last);
        if again {
            let second = node.sent();
            assert_eq!((&second.headers, second.fence), (&first.headers, fence), "{what}");
            assert!(node.acknowledged().is_empty(), "{what}");
            node.reply(second.ticket, published(40)).unwrap();
            assert_eq!(node.acknowledged(), [40], "{what}");
        } else {
            assert!(node.asked().is_empty(), "{what}");
            assert_eq!(node.acknowledged(), [33], "{what}");
        }
        assert_eq!(node.0.stats.batches_published, 1, "{what}");
    }
}

#[test]
fn what_arrived_before_the_connection_was_lost_is_not_sent_again() {
    for late in [None, Some(published(33)), Some(unreachable())] {
        let mut node = Node::ready();
        let first = node.publish();
        node.all([DISCONNECTED]);
        if let Some(answer) = late {
            node.reply(first.ticket, answer).unwrap();
        }
        assert!(node.acknowledged().is_empty());
        node.all([CONNECTED, hold(2, 2), go(2)]);
        node.found(message(33, first.headers));
        assert_eq!((node.acknowledged(), node.asked().len()), (vec![33], 0));
    }
}

/// The answer to a publication: how long it waits before it looks again. None: not at all.
#[test]
fn every_failure_leads_to_looking_again() {
    for (error, wait_ms) in [
        (BrokerError::Conflict, None),
        (BrokerError::Unreachable(String::new()), Some(RETRY_MS)),
        (BrokerError::Refused("full".to_owned()), Some(REFUSED_RETRY_MS)),
    ] {
        let mut node = Node::ready();
        let first = node.publish();
        node.reply(first.ticket, Err(error.clone())).unwrap();
        assert_eq!(node.0.refusal.is_some(), matches!(error, BrokerError::Refused(_)));
        if let Some(wait_ms) = wait_ms {
            assert_eq!(node.0.deadline(), NOW.mono_ms + wait_ms, "{error}");
            assert!(node.asked().is_empty(), "{error}");
            node.step(NOW.mono_ms + wait_ms);
        }
        let other = PartHeaders { batch: BatchNo(0), ..first.headers };
        node.found(message(21, other));
        let second = node.sent();
        assert_eq!(second.fence, 21, "{error}");
        node.reply(second.ticket, published(22)).unwrap();
        assert_eq!((node.acknowledged(), node.0.refusal.clone()), (vec![22], None), "{error}");
    }
}

#[test]
fn a_question_without_an_answer_is_asked_again() {
    let mut node = Node::new();
    node.all([CONNECTED, hold(1, 1), go(1)]);
    for i in 1..4 {
        let asked = node.asked();
        let [(ticket, Request::LastOwn { .. })] = asked[..] else { panic!("{asked:?}") };
        node.reply(ticket, unreachable()).unwrap();
        assert_eq!((node.step(NOW.mono_ms), node.asked().len()), (Step::Idle, 0), "{i}");
        assert_eq!(node.step(NOW.mono_ms + RETRY_MS), Step::Worked, "{i}");
    }
    node.found(None);
    node.publish();
}

/// Whose messages stand in the way, one after the other, and whether the last ends the node. The
/// first own batch is acknowledged before, or not.
#[test]
fn three_refusals_by_a_foreign_site_in_a_row_end_it() {
    for (before, sites, ends) in [
        (true, vec![FOREIGN, FOREIGN, FOREIGN], true),
        (true, vec![FOREIGN, FOREIGN], false),
        (true, vec![SITE, SITE, SITE, SITE], false),
        (true, vec![FOREIGN, SITE, FOREIGN, FOREIGN], true),
        (false, vec![FOREIGN, FOREIGN, FOREIGN, FOREIGN], false),
    ] {
        let mut node = Node::ready();
        let mut sent = node.publish();
        if before {
            node.reply(sent.ticket, published(5)).unwrap();
            node.write();
            node.all([WAKE]);
            sent = node.publish();
        }
        let other = PartHeaders { digest: [1; 32], ..sent.headers.clone() };
        let mut result = Ok(());
        for (seq, site) in (10..).zip(&sites) {
            node.reply(sent.ticket, Err(BrokerError::Conflict)).unwrap();
            result = node.found_or(message(seq, PartHeaders { site: *site, ..other.clone() }));
            if result.is_ok() {
                sent = node.sent();
                assert_eq!(sent.fence, seq);
            }
        }
        assert_eq!(node.asked().len(), 0);
        let second = matches!(result, Err(Fatal::SecondNode { node: NodeId(1), .. }));
        assert_eq!((second, result.is_ok()), (ends, !ends), "{before} {sites:?}");
    }
}

#[test]
fn a_batch_that_gets_through_ends_the_count_of_foreign_refusals() {
    let mut node = Node::ready();
    let mut sent = node.publish();
    node.reply(sent.ticket, published(1)).unwrap();
    for round in 1..4 {
        node.write();
        node.all([WAKE]);
        sent = node.publish();
        for i in 1..FOREIGN_MAX {
            node.reply(sent.ticket, Err(BrokerError::Conflict)).unwrap();
            let seq = round * 10 + u64::from(i);
            node.found(message(seq, PartHeaders { site: FOREIGN, ..sent.headers }));
            sent = node.sent();
        }
        node.reply(sent.ticket, published(round * 10 + 9)).unwrap();
    }
    assert_eq!(node.0.stats.batches_published, 4);
}

/// It loses its connection in each of its states.
#[test]
fn without_a_connection_nothing_is_published() {
    for state in ["finding", "ready", "sending", "again", "done"] {
        let mut node = if state == "finding" { Node::new() } else { Node::ready() };
        if state == "finding" {
            node.all([CONNECTED, hold(1, 1), go(1)]);
        }
        if ["sending", "again", "done"].contains(&state) {
            let sent = node.publish();
            match state {
                "again" => node.reply(sent.ticket, unreachable()).unwrap(),
                "done" => node.reply(sent.ticket, published(3)).unwrap(),
                _ => {}
            }
        }
        let late = node.asked().first().map_or(1, |(ticket, _)| *ticket);
        node.all([DISCONNECTED, WAKE]);
        node.write();
        node.all([WAKE, go(1)]);
        node.reply(late, Ok(Reply::Message(None))).unwrap();
        for mono_ms in [NOW.mono_ms, NOW.mono_ms + 100_000] {
            assert_eq!(node.step(mono_ms), Step::Idle, "{state}");
        }
        assert_eq!((node.asked().len(), node.0.deadline()), (0, u64::MAX), "{state}");
        assert!(!node.0.is_drained(), "{state}");
        assert!(node.0.outputs.contains(&Output::Wake), "{state}: inbound follows the log");
    }
}

#[test]
fn a_node_that_does_not_publish_sends_nothing() {
    let mut node = Node::with(NodeConfig { publish: false, ..NodeConfig::for_tests(1) });
    node.write();
    node.all([CONNECTED, hold(1, 1), go(1)]);
    node.found(None);
    node.all([WAKE]);
    assert_eq!((node.step(NOW.mono_ms), node.asked().len()), (Step::Idle, 0));
    assert!(node.0.is_drained());
    assert!(node.0.outputs.contains(&Output::Wake));
}
