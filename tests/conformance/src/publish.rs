//! Behaviours of publishing: positions, the fence, stored messages.

use crate::client::{Client, SHARD, same};
use crate::{Subject, Verdict};
use bytes::Bytes;
use harmonylite::broker::{BrokerError, Reply, Request};
use harmonylite::model::batch::{LogMark, PartHeaders};
use harmonylite::model::ids::{BatchNo, NodeId, Site, StreamSeq};

pub(crate) fn positions(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.state()?;
    for batch in 1..=20 {
        same("position", client.publish(batch, batch - 1)?, batch)?;
    }
    Ok(())
}

pub(crate) fn round_trip(subject: &mut dyn Subject) -> Verdict {
    let node = u64::MAX;
    let mut client = Client::connect(subject, node);
    client.state()?;
    let headers = PartHeaders {
        site: Site(i64::MAX),
        batch: BatchNo(u64::MAX >> 1),
        part: 3,
        parts: u32::MAX,
        total_bytes: u64::MAX >> 1,
        digest: std::array::from_fn(|i| (i as u8).wrapping_mul(9)),
        log: Some(LogMark { id: i64::MAX, hash: u64::MAX }),
    };
    let payload: Bytes = (0..=255_u8).collect::<Vec<_>>().into();
    let request = Request::Publish {
        shard: SHARD,
        headers: headers.clone(),
        payload: payload.clone(),
        expected_last: StreamSeq(0),
    };
    let Ok(Reply::Published(seq)) = client.ask(request) else {
        return Err("not published".to_owned());
    };
    let message = client.at(seq.0)?.ok_or("the message is not there")?;
    same("headers", message.headers, Ok(headers))?;
    same("payload", message.payload, payload)?;
    same("node", message.node, NodeId(node))?;
    same("shard", message.shard, SHARD)?;
    same("position", message.seq, seq)
}

pub(crate) fn fence(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.fill(3)?;
    for wrong in [0, 1, 2, 4, 1_000] {
        client.conflicts(9, wrong)?;
    }
    same("last", client.state()?.last.0, 3)?;
    same("position", client.publish(4, 3)?, 4)
}

pub(crate) fn fence_is_own(subject: &mut dyn Subject) -> Verdict {
    let (a, b) = (subject.connect(NodeId(5)), subject.connect(NodeId(50)));
    Client::of(subject, a, 1).fill(2)?;
    same("position", Client::of(subject, b, 1).publish(1, 0)?, 3)?;
    same("position", Client::of(subject, a, 100).publish(3, 2)?, 4)?;
    // Node 5 and node 50 differ, although one subject is a prefix of the other.
    Client::of(subject, b, 100).conflicts(2, 4)?;
    same("position", Client::of(subject, b, 200).publish(2, 3)?, 5)
}

pub(crate) fn no_duplicate_window(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.state()?;
    for round in 0..3 {
        same("position", client.publish(1, round)?, round + 1)?;
    }
    same("last", client.state()?.last.0, 3)
}

pub(crate) fn largest_payload(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.state()?;
    let most = client.max_payload_bytes();
    // Leave room for the headers, like outbound.
    let publish = |client: &mut Client<'_>, bytes: usize, expected: u64| {
        let headers = crate::client::headers(1);
        client.ask(Request::Publish {
            shard: SHARD,
            headers,
            payload: vec![1; bytes].into(),
            expected_last: StreamSeq(expected),
        })
    };
    if !matches!(publish(&mut client, most - 1_024, 0), Ok(Reply::Published(_))) {
        return Err(format!("{most} bytes less the headers are not taken"));
    }
    match publish(&mut client, most + 1, 1) {
        Err(BrokerError::Refused(_)) => same("last", client.state()?.last.0, 1),
        other => Err(format!("a payload of {} bytes: {other:?}", most + 1)),
    }
}
