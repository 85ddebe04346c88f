//! The registry bucket, and signals.

use crate::client::{Client, same};
use crate::{Subject, Verdict};
use harmonylite::broker::{BrokerError, BrokerEvent, Request};
use harmonylite::model::ids::NodeId;

/// Short enough for a test, long enough for a server that counts in seconds.
const TTL_MS: u64 = 2_000;

pub(crate) fn revisions(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.state()?;
    same("nothing yet", client.get("node-5")?, None)?;
    let first = client.put("node-5", "one", Some(0), None).map_err(|e| e.to_string())?;
    same("again as new", client.put("node-5", "two", Some(0), None), Err(BrokerError::Conflict))?;
    let entry = client.get("node-5")?.ok_or("the key is not there")?;
    same("entry", (entry.revision, &entry.value[..]), (first, &b"one"[..]))?;
    let second = client.put("node-5", "two", Some(first), None).map_err(|e| e.to_string())?;
    same("revisions rise", second > first, true)?;
    same(
        "an old revision",
        client.put("node-5", "three", Some(first), None),
        Err(BrokerError::Conflict),
    )?;
    same("value", client.get("node-5")?.map(|e| e.value.to_vec()), Some(b"two".to_vec()))?;
    same("another key", client.get("node-50")?, None)
}

pub(crate) fn unconditional(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.state()?;
    for value in ["one", "two"] {
        let revision = client.put("key", value, None, None).map_err(|e| e.to_string())?;
        same("revision", client.get("key")?.map(|e| e.revision), Some(revision))?;
    }
    same("value", client.get("key")?.map(|e| e.value.to_vec()), Some(b"two".to_vec()))
}

pub(crate) fn time_to_live(subject: &mut dyn Subject) -> Verdict {
    let mut client = Client::connect(subject, 5);
    client.state()?;
    let mut revision =
        client.put("lease-5", "me", Some(0), Some(TTL_MS)).map_err(|e| e.to_string())?;
    for _ in 0..3 {
        client.subject().wait(TTL_MS / 2);
        revision = client
            .put("lease-5", "me", Some(revision), Some(TTL_MS))
            .map_err(|e| format!("a renewal: {e}"))?;
    }
    same("renewed", client.get("lease-5")?.map(|e| e.revision), Some(revision))?;
    client.subject().wait(TTL_MS * 2);
    same("gone", client.get("lease-5")?, None)?;
    client
        .put("lease-5", "you", Some(0), Some(TTL_MS))
        .map(drop)
        .map_err(|e| format!("a free lease: {e}"))
}

pub(crate) fn signal(subject: &mut dyn Subject) -> Verdict {
    let (a, b) = (subject.connect(NodeId(5)), subject.connect(NodeId(6)));
    // A request makes sure that both clients are connected.
    Client::of(subject, a, 1).state()?;
    Client::of(subject, b, 1).state()?;
    subject.request(a, 0, Request::Signal { payload: bytes::Bytes::from_static(b"hello") });
    let mut client = Client::of(subject, b, 100);
    loop {
        match client.event() {
            Some(BrokerEvent::Signal(bytes)) if &bytes[..] == b"hello" => return Ok(()),
            Some(_) => {}
            None => return Err("the signal did not come".to_owned()),
        }
    }
}
