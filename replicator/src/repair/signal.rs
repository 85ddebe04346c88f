//! The two signals about gaps that nodes send each other (FORMAT.md, "Signals").
//!
//! Arrives and leaves: bytes of the signal subject. Anything that is not one of ours is dropped.

/// A question about a gap or its answer, as CBOR on the signal subject.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Signal {
    /// "I miss something: publish again what you have from this time on."
    Ask {
        /// Who asks.
        asker: u64,
        /// The asker's number of the gap.
        gap: i64,
        /// When the asker noticed it, unix milliseconds.
        noticed_ms: i64,
        /// Whose batches are missing: that node answers at once, others after a while. 0: not
        /// known.
        origin: u64,
        /// The stream.
        shard: u32,
        /// How far the asker has consumed it.
        upto: u64,
        /// From when on, unix milliseconds.
        since_ms: i64,
    },
    /// "It is published."
    Answered {
        /// Who asked.
        asker: u64,
        /// The asker's number of the gap.
        gap: i64,
        /// When the asker noticed it, unix milliseconds.
        noticed_ms: i64,
        /// Who answers.
        by: u64,
        /// Whether that node misses nothing of the stream itself, up to the position of the asker.
        whole: bool,
    },
}

/// A signal is a handful of numbers; anything longer is not one of ours.
const SIGNAL_BYTES_MAX: usize = 256;

impl Signal {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing plain numbers to memory cannot fail.
        let _ = ciborium::into_writer(self, &mut out);
        out
    }

    /// From bytes; None if they are not a signal that we know.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= SIGNAL_BYTES_MAX).then(|| ciborium::from_reader(bytes).ok()).flatten()
    }
}
