//! Behaviours of consuming: the start, the order, the replacement of a consumer.

use crate::client::{Client, SHARD, same};
use crate::{Subject, Verdict};
use harmonylite::model::ids::{NodeId, StreamSeq};

fn expect(client: &mut Client<'_>, generation: u64, positions: &[u64]) -> Verdict {
    for seq in positions {
        same("delivered", client.delivered(generation).map(|m| m.seq.0), Some(*seq))?;
    }
    same("nothing more", client.delivered(generation).map(|m| m.seq.0), None)
}

pub(crate) fn in_order(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.fill(3)?;
    client.consume(1, 7)?;
    expect(&mut client, 7, &[1, 2, 3])?;
    client.publish(4, 3)?;
    client.publish(5, 4)?;
    expect(&mut client, 7, &[4, 5])
}

pub(crate) fn in_the_middle(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.fill(5)?;
    client.consume(4, 7)?;
    expect(&mut client, 7, &[4, 5])
}

pub(crate) fn below_first(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.fill(5)?;
    client.subject().expire(SHARD, StreamSeq(3));
    client.consume(2, 7)?;
    expect(&mut client, 7, &[4, 5])
}

pub(crate) fn behind_last(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.fill(2)?;
    client.consume(3, 7)?;
    expect(&mut client, 7, &[])?;
    client.publish(3, 2)?;
    expect(&mut client, 7, &[3])
}

pub(crate) fn over_a_hole(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.fill(4)?;
    client.subject().delete_message(SHARD, StreamSeq(2));
    client.consume(1, 7)?;
    expect(&mut client, 7, &[1, 3, 4])
}

pub(crate) fn replaced(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.fill(3)?;
    client.consume(1, 7)?;
    client.consume(2, 8)?;
    expect(&mut client, 8, &[2, 3])?;
    client.publish(4, 3)?;
    // Later messages go only to the new consumer.
    same("delivered", client.delivered(8).map(|m| m.seq.0), Some(4))?;
    same("the old one is silent", client.delivered(7).map(|m| m.seq.0), None)
}

pub(crate) fn two_nodes(subject: &mut dyn Subject) -> Verdict {
    let (a, b) = (subject.connect(NodeId(5)), subject.connect(NodeId(6)));
    Client::of(subject, a, 1).fill(2)?;
    Client::of(subject, b, 1).publish(1, 0)?;
    for index in [a, b] {
        let mut client = Client::of(subject, index, 100);
        client.consume(1, 7)?;
        let nodes: Vec<Option<u64>> =
            (0..3).map(|_| client.delivered(7).map(|m| m.node.0)).collect();
        same("nodes", nodes, vec![Some(5), Some(5), Some(6)])?;
    }
    Ok(())
}
