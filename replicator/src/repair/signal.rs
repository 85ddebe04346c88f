//! The signals between nodes about gaps (FORMAT.md, "Signals").
//!
//! Arrives and leaves: bytes of the signal subject. Unknown signals are dropped.

/// A question about a gap or its answer, as CBOR on the signal subject.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Signal {
    /// A node misses messages, and asks the others to republish their rows from a time on.
    Ask {
        /// The asking node.
        asker: u64,
        /// The asker's number of the gap.
        gap: i64,
        /// When the asker noticed it, unix milliseconds.
        noticed_ms: i64,
        /// The node whose batches are missing. That node answers at once, others after a while. 0
        /// if not known.
        origin: u64,
        /// The stream.
        shard: u32,
        /// The position up to which the asker has consumed it.
        upto: u64,
        /// The oldest requested row time, unix milliseconds.
        since_ms: i64,
    },
    /// A node begins to republish its rows for a question. The other nodes wait for them.
    Answering {
        /// The node that asked.
        asker: u64,
        /// The asker's number of the gap.
        gap: i64,
        /// When the asker noticed the gap, unix milliseconds.
        noticed_ms: i64,
        /// The answering node.
        by: u64,
        /// Whether the answering node misses nothing of the stream so far.
        whole: bool,
    },
    /// A node has republished its rows.
    Answered {
        /// The node that asked.
        asker: u64,
        /// The asker's number of the gap.
        gap: i64,
        /// When the asker noticed it, unix milliseconds.
        noticed_ms: i64,
        /// The answering node.
        by: u64,
        /// Whether the answering node misses nothing of the stream up to the asker's position.
        whole: bool,
    },
}

/// A signal is a handful of numbers. Anything longer is not ours.
const SIGNAL_BYTES_MAX: usize = 256;

impl Signal {
    /// Encodes the signal.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing plain numbers to memory cannot fail.
        let _ = ciborium::into_writer(self, &mut out);
        out
    }

    /// Decodes a signal; None if it is unknown.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= SIGNAL_BYTES_MAX).then(|| ciborium::from_reader(bytes).ok()).flatten()
    }
}
