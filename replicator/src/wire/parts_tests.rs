use super::*;
use crate::model::ids::{BatchNo, NodeId, Site};

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
}

fn encoded(bytes: &[u8]) -> Encoded {
    let body = Spill::from_bytes(bytes.to_vec());
    Encoded { digest: Sha256::digest(bytes).into(), raw_bytes: body.len(), body }
}

/// The messages of a batch of site 7.
fn cut(bytes: &[u8], part_bytes_max: usize) -> Vec<(PartHeaders, Vec<u8>)> {
    let header = BatchHeader {
        node: NodeId(1),
        site: Site(7),
        number: BatchNo(3),
        previous: BatchNo(2),
        schema_hash: [0; 32],
        created_ms: 0,
        further_sites: Vec::new(),
        schema_changes: Vec::new(),
    };
    let encoded = encoded(bytes);
    (1..=part_count(encoded.body.len(), part_bytes_max))
        .map(|part| {
            let headers = part_headers(&header, &encoded, part, part_bytes_max, None);
            let payload = part_payload(&encoded.body, part, part_bytes_max).unwrap();
            (headers, payload.to_vec())
        })
        .collect()
}

/// Keeps `memory` bytes in memory, and takes batches of 1000 bytes at most.
fn assembler(memory: u64) -> Assembler {
    let limits = Limits {
        batch_memory_bytes_max: memory * 2,
        batch_atomic_bytes_max: 1_000,
        ..Limits::default()
    };
    Assembler::new(&limits, &std::env::temp_dir())
}

fn outcome(result: Result<PartOutcome, PartError>) -> &'static str {
    match result {
        Ok(PartOutcome::Incomplete) => "incomplete",
        Ok(PartOutcome::Complete { .. }) => "complete",
        Ok(PartOutcome::Orphan) => "orphan",
        Err(PartError::Digest) => "digest",
        Err(PartError::Headers { reason, .. }) => reason,
        Err(PartError::Io(_)) => "file",
    }
}

#[test]
fn parts_are_counted_at_the_borders() {
    for (bytes, part_max, parts) in [
        (0, 10, 1),
        (1, 10, 1),
        (9, 10, 1),
        (10, 10, 1),
        (11, 10, 2),
        (20, 10, 2),
        (21, 10, 3),
        (5, 0, 5),
        (u64::MAX, 1, u32::MAX),
    ] {
        assert_eq!(part_count(bytes, part_max), parts, "{bytes} {part_max}");
    }
}

#[test]
fn what_is_cut_is_put_together_again() {
    for (len, part_max, memory, parts) in [
        (0, 10, 100, 1),
        (1, 10, 100, 1),
        (10, 10, 100, 1),
        (11, 10, 100, 2),
        (99, 10, 1_000, 10),
        (100, 10, 1, 10),
        (1_000, 999, 500, 2),
        (7, 1, 3, 7),
    ] {
        let whole = bytes(len);
        let messages = cut(&whole, part_max);
        assert_eq!(messages.len(), parts, "{len} {part_max}");
        assert!(messages.iter().all(|(_, p)| p.len() <= part_max), "{len} {part_max}");
        let mut assembler = assembler(memory);
        // The second time shows that nothing is left of the first.
        for base in [10, 20] {
            for (i, (headers, payload)) in messages.iter().enumerate() {
                let fed = assembler.feed(StreamSeq(base + i as u64), headers, payload).unwrap();
                match fed {
                    PartOutcome::Complete { body, first } => {
                        assert_eq!((i + 1, first), (parts, StreamSeq(base)), "{len}");
                        assert!(body.to_vec().unwrap() == whole, "{len} {part_max}");
                    }
                    PartOutcome::Incomplete => assert!(i + 1 < parts, "{len} {part_max}"),
                    PartOutcome::Orphan => panic!("{len} {part_max}: part {i} is an orphan"),
                }
            }
        }
    }
}

#[test]
fn a_large_batch_lies_in_a_file() {
    for (memory, in_file) in [(19, true), (20, false)] {
        let mut assembler = assembler(memory);
        let mut last = None;
        for (headers, payload) in cut(&bytes(20), 6) {
            last = Some(assembler.feed(StreamSeq(1), &headers, &payload).unwrap());
        }
        let Some(PartOutcome::Complete { body, .. }) = last else { panic!("{memory}: not whole") };
        assert_eq!(matches!(body, Spill::File(..)), in_file, "{memory}");
    }
}

/// Which parts of a batch of three arrive, and what each leads to.
#[test]
fn parts_count_only_in_their_order() {
    let messages = cut(&bytes(25), 10);
    for (arriving, expected) in [
        (vec![1, 2, 3], vec!["incomplete", "incomplete", "complete"]),
        (vec![2], vec!["orphan"]),
        (vec![1, 3], vec!["incomplete", "orphan"]),
        (vec![1, 2, 2, 3], vec!["incomplete", "incomplete", "orphan", "complete"]),
        (vec![1, 2, 1, 3], vec!["incomplete", "incomplete", "incomplete", "orphan"]),
        (vec![1, 1, 2, 3], vec!["incomplete", "incomplete", "incomplete", "complete"]),
        (vec![1, 2, 3, 3], vec!["incomplete", "incomplete", "complete", "orphan"]),
    ] {
        let mut assembler = assembler(100);
        let seen: Vec<_> = (1_u64..)
            .zip(&arriving)
            .map(|(seq, part)| {
                let (headers, payload): &(PartHeaders, Vec<u8>) = &messages[part - 1];
                outcome(assembler.feed(StreamSeq(seq), headers, payload))
            })
            .collect();
        assert_eq!(seen, expected, "{arriving:?}");
    }
}

#[test]
fn a_repeated_first_part_begins_anew() {
    let messages = cut(&bytes(25), 10);
    let mut assembler = assembler(100);
    let mut last = None;
    for (seq, part) in [(4, 0), (5, 1), (6, 0), (7, 1), (8, 2)] {
        let (headers, payload) = &messages[part];
        last = Some(assembler.feed(StreamSeq(seq), headers, payload).unwrap());
    }
    let Some(PartOutcome::Complete { body, first }) = last else { panic!("not whole") };
    assert_eq!((first, body.to_vec().unwrap()), (StreamSeq(6), bytes(25)));
}

#[test]
fn changed_bytes_are_noticed_and_forgotten() {
    for (part, at) in [(0, 0), (0, 9), (1, 0), (2, 4)] {
        let mut messages = cut(&bytes(25), 10);
        let mut assembler = assembler(100);
        messages[part].1[at] ^= 1;
        let feed = |assembler: &mut Assembler, messages: &[(PartHeaders, Vec<u8>)]| {
            let mut last = "";
            for (headers, payload) in messages {
                last = outcome(assembler.feed(StreamSeq(1), headers, payload));
            }
            last
        };
        assert_eq!(feed(&mut assembler, &messages), "digest", "part {part}, byte {at}");
        assert_eq!(feed(&mut assembler, &cut(&bytes(25), 10)), "complete");
    }
}

/// The headers of one part of two are changed; the other is as it was sent.
#[test]
fn headers_that_contradict_are_refused() {
    let good = cut(&bytes(20), 10);
    type Change = fn(&mut PartHeaders);
    let cases: [(usize, Change, &str); 10] = [
        (0, |h| h.part = 0, "out of bounds"),
        (0, |h| h.part = 3, "out of bounds"),
        (0, |h| h.total_bytes = 1_001, "out of bounds"),
        (1, |h| h.part = 3, "out of bounds"),
        (0, |h| h.total_bytes = 9, "more bytes than announced"),
        (1, |h| h.total_bytes = 21, "orphan"),
        (1, |h| h.parts = 3, "orphan"),
        (1, |h| h.batch = BatchNo(4), "orphan"),
        (1, |h| h.site = Site(8), "orphan"),
        (1, |h| h.digest = [1; 32], "orphan"),
    ];
    for (i, (part, change, expected)) in cases.into_iter().enumerate() {
        let mut assembler = assembler(100);
        let mut last = "";
        for (at, (headers, payload)) in good.iter().take(part + 1).enumerate() {
            let mut headers = headers.clone();
            if at == part {
                change(&mut headers);
            }
            last = outcome(assembler.feed(StreamSeq(1), &headers, payload));
        }
        assert_eq!(last, expected, "case {i}");
    }
}

#[test]
fn a_batch_of_another_length_than_announced_is_refused() {
    for (announced, parts, fed, expected) in [
        (20, 2, 2, "complete"),
        (19, 2, 2, "more bytes than announced"),
        (21, 2, 2, "fewer bytes than announced"),
        (20, 3, 2, "incomplete"),
        (20, 1, 1, "fewer bytes than announced"),
    ] {
        let mut assembler = assembler(100);
        let mut last = "";
        for (headers, payload) in cut(&bytes(20), 10).into_iter().take(fed) {
            let headers = PartHeaders { total_bytes: announced, parts, ..headers };
            last = outcome(assembler.feed(StreamSeq(1), &headers, &payload));
        }
        assert_eq!(last, expected, "{announced} in {parts}");
    }
}
