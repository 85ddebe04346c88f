//! Behaviours of the stream's state, also after messages are gone.

use crate::client::{Client, SHARD, same};
use crate::{Subject, Verdict};
use harmonylite::model::ids::{NodeId, StreamSeq};

pub(crate) fn message_at(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.fill(3)?;
    for seq in 1..=3 {
        let message = client.at(seq)?.ok_or(format!("no message at {seq}"))?;
        same("batch", message.headers.map(|h| h.batch.0), Ok(seq))?;
    }
    same("beyond the last", client.at(4)?.is_none(), true)
}

pub(crate) fn last_own(subject: &mut dyn Subject) -> Verdict {
    let (a, b) = (subject.connect(NodeId(5)), subject.connect(NodeId(6)));
    let mut first = Client::of(subject, a, 1);
    first.state()?;
    same("nothing yet", first.last_own()?.is_none(), true)?;
    first.fill(2)?;
    let mut second = Client::of(subject, b, 1);
    same("nothing of its own", second.last_own()?.is_none(), true)?;
    second.publish(1, 0)?;
    let message = Client::of(subject, a, 100).last_own()?.ok_or("the own message is not found")?;
    same("position", message.seq.0, 2)?;
    same("node", message.node, NodeId(5))
}

pub(crate) fn state(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    let empty = client.state()?;
    same("empty", (empty.first.0, empty.last.0, empty.last_time_ns), (1, 0, 0))?;
    client.fill(3)?;
    let full = client.state()?;
    same("full", (full.first.0, full.last.0), (1, 3))?;
    let times: Vec<i64> = (1..=3)
        .map(|seq| client.at(seq).map(|m| m.map_or(0, |m| m.time_ns)))
        .collect::<Result<_, _>>()?;
    same("times rise", times[0] > 0 && times[0] <= times[1] && times[1] <= times[2], true)?;
    same("time of the last", full.last_time_ns, times[2])
}

pub(crate) fn created(subject: &mut dyn Subject) -> Verdict {
    let index = subject.connect(NodeId(5));
    let mut client = Client::of(subject, index, 1);
    let before = client.state()?;
    client.fill(2)?;
    same("created", client.state()?.created_ns, before.created_ns)?;
    client.subject().recreate(SHARD);
    let after = Client::of(subject, index, 100).state()?;
    same("created differs", after.created_ns != before.created_ns, true)?;
    same("empty", (after.first.0, after.last.0), (1, 0))?;
    same("position", Client::of(subject, index, 200).publish(1, 0)?, 1)
}

pub(crate) fn expiry(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.fill(5)?;
    client.subject().expire(SHARD, StreamSeq(3));
    let state = client.state()?;
    same("state", (state.first.0, state.last.0), (4, 5))?;
    same("gone", client.at(3)?.is_none(), true)?;
    same("still there", client.at(4)?.is_some(), true)
}

pub(crate) fn expiry_of_all(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.fill(4)?;
    client.subject().expire(SHARD, StreamSeq(4));
    let state = client.state()?;
    same("state", (state.first.0, state.last.0), (5, 4))?;
    same("last own", client.last_own()?.is_none(), true)?;
    // The subject has no message left, so it has no last position.
    same("position", client.publish(5, 0)?, 5)
}

pub(crate) fn hole(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.fill(4)?;
    client.subject().delete_message(SHARD, StreamSeq(2));
    let state = client.state()?;
    same("state", (state.first.0, state.last.0), (1, 4))?;
    same("gone", client.at(2)?.is_none(), true)?;
    same("neighbours", client.at(1)?.is_some() && client.at(3)?.is_some(), true)
}

/// After its first message is destroyed, the stream looks as if that message had expired, except
/// for its age.
pub(crate) fn hole_at_the_front(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.fill(2)?;
    let time_ns = client.at(1)?.map_or(0, |m| m.time_ns);
    client.subject().delete_message(SHARD, StreamSeq(1));
    let state = client.state()?;
    same("state", (state.first.0, state.last.0), (2, 2))?;
    same("kept since before it", state.kept_since_ns <= time_ns && time_ns > 0, true)
}

pub(crate) fn fence_behind_expiry(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.fill(4)?;
    client.subject().expire(SHARD, StreamSeq(2));
    client.subject().delete_message(SHARD, StreamSeq(3));
    client.conflicts(5, 3)?;
    same("position", client.publish(5, 4)?, 5)?;
    // After its newest message is destroyed, the subject ends at the previous one.
    client.subject().delete_message(SHARD, StreamSeq(5));
    same("last own", client.last_own()?.map(|m| m.seq.0), Some(4))?;
    client.conflicts(6, 5)?;
    same("position", client.publish(6, 4)?, 6)
}
