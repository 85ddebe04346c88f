//! Describes events in one readable line, for traces.

use harmonylite::broker::{BrokerEvent, Message, Reply};
use harmonylite::inbound;
use harmonylite::publish::outbound;

fn message(m: &Message) -> String {
    match &m.headers {
        Ok(h) => format!(
            "{}/{} of node {}: batch {} part {}/{} of site {}",
            m.shard, m.seq, m.node, h.batch, h.part, h.parts, h.site
        ),
        Err(reason) => format!("{}/{} of node {}: {reason}", m.shard, m.seq, m.node),
    }
}

/// Describes an event of the broker.
pub(crate) fn event(event: &BrokerEvent) -> String {
    match event {
        BrokerEvent::Delivered { generation, message: m, .. } => {
            format!("message {} (consumer {generation})", message(m))
        }
        BrokerEvent::Reply(ticket, Ok(Reply::Message(Some(m)))) => {
            format!("answer {ticket}: message {}", message(m))
        }
        BrokerEvent::Reply(ticket, Ok(Reply::Kv(entry))) => {
            format!("answer {ticket}: key at {:?}", entry.as_ref().map(|e| e.revision))
        }
        BrokerEvent::Reply(ticket, Ok(reply)) => format!("answer {ticket}: {reply:?}"),
        BrokerEvent::Reply(ticket, Err(error)) => format!("answer {ticket}: {error}"),
        BrokerEvent::Signal(bytes) => {
            format!("signal {:?}", harmonylite::repair::signal::Signal::decode(bytes))
        }
        other => format!("{other:?}"),
    }
}

/// Describes an input of inbound; None if it is not worth a line.
pub(crate) fn to_inbound(input: &inbound::Input) -> Option<String> {
    match input {
        inbound::Input::Wake => None,
        inbound::Input::Broker(e) => Some(event(e)),
        other => Some(format!("{other:?}")),
    }
}

/// Describes an input of outbound; None if it is not worth a line.
pub(crate) fn to_outbound(input: &outbound::Input) -> Option<String> {
    match input {
        outbound::Input::Wake => None,
        outbound::Input::Broker(e) => Some(event(e)),
        outbound::Input::Effect(effect) => Some(format!("{effect:?}")),
    }
}

/// Describes the state of the writing actor after a step.
pub(crate) fn work(inbound: &inbound::Inbound<crate::network::Handle>) -> String {
    let s = &inbound.stats;
    let streams: Vec<String> = inbound
        .streams()
        .map(|(_, s)| {
            let mut held: Vec<_> =
                s.held.iter().map(|(node, seq)| format!("node {node} from {seq}")).collect();
            held.sort();
            format!("stream {} at {} held {held:?}", s.shard, s.cursor.seq())
        })
        .collect();
    format!(
        "{} batches, {} rows taken, {} skipped, {} gaps, {} losses; {}",
        s.batches_applied,
        s.rows_taken,
        s.rows_skipped,
        s.gaps,
        s.losses,
        streams.join("; ")
    )
}
