//! Batches as NATS messages: subjects, stream names and headers (FORMAT.md, "the message").
//!
//! Pure. Input is hostile until proven otherwise: a missing or wrong header is an error, never a
//! panic.

use crate::model::batch::{LogMark, PartHeaders};
use crate::model::ids::{BatchNo, NodeId, Site};
use async_nats::header::{HeaderMap, HeaderName};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

const SITE: &str = "Harmonylite-Site";
const BATCH: &str = "Harmonylite-Batch";
const PART: &str = "Harmonylite-Part";
const PARTS: &str = "Harmonylite-Parts";
const BYTES: &str = "Harmonylite-Bytes";
const DIGEST: &str = "Harmonylite-Sha256";
const LOG: &str = "Harmonylite-Log";

/// Returns the name of a stream.
pub fn stream_name(prefix: &str, shard: u32) -> String {
    format!("{prefix}-batch-{shard}")
}

/// Returns the subjects of a stream.
pub fn stream_subjects(prefix: &str, shard: u32) -> String {
    format!("{prefix}-{shard}.*")
}

/// Returns the subject of one node in a stream.
pub fn subject(prefix: &str, shard: u32, node: NodeId) -> String {
    format!("{prefix}-{shard}.{node}")
}

/// Returns the subject of the signals between nodes. No stream stores it.
pub fn signal_subject(prefix: &str) -> String {
    format!("{prefix}-signal")
}

/// Returns the origin from the last token of a subject; 0 if that is no number, so the message is
/// not ours.
pub fn node_of(subject: &str) -> NodeId {
    NodeId(subject.rsplit('.').next().and_then(|token| token.parse().ok()).unwrap_or(0))
}

/// Writes the headers of one part.
pub fn to_headers(part: &PartHeaders) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (SITE, part.site.to_string()),
        (BATCH, part.batch.to_string()),
        (PART, part.part.to_string()),
        (PARTS, part.parts.to_string()),
        (BYTES, part.total_bytes.to_string()),
        (DIGEST, HEXLOWER.encode(&part.digest)),
    ] {
        headers.insert(HeaderName::from_static(name), value.as_str());
    }
    if let Some(LogMark { id, hash }) = part.log {
        headers.insert(HeaderName::from_static(LOG), format!("{id} {hash:016x}").as_str());
    }
    headers
}

/// Reads the headers of one part.
///
/// # Errors
/// The missing or wrong header.
pub fn from_headers(headers: Option<&HeaderMap>) -> Result<PartHeaders, String> {
    let headers = headers.ok_or("no headers: this is not a batch of HarmonyLite")?;
    Ok(PartHeaders {
        site: Site(number::<i64>(headers, SITE)?).positive()?,
        batch: BatchNo(number(headers, BATCH)?),
        part: number(headers, PART)?,
        parts: number(headers, PARTS)?,
        total_bytes: number(headers, BYTES)?,
        digest: digest(text(headers, DIGEST)?)?,
        log: headers.get(HeaderName::from_static(LOG)).and_then(|value| log_mark(value.as_str())),
    })
}

impl Site {
    fn positive(self) -> Result<Self, String> {
        if self.0 > 0 { Ok(self) } else { Err(format!("header {SITE} is not positive")) }
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<&'h str, String> {
    headers
        .get(HeaderName::from_static(name))
        .map(|value| value.as_str())
        .ok_or_else(|| format!("header {name} is missing"))
}

fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &'static str) -> Result<T, String> {
    text(headers, name)?.parse().map_err(|_| format!("header {name} is not a number"))
}

/// Reads a mark. Only the origin itself uses it, so a wrong one is as good as none.
fn log_mark(text: &str) -> Option<LogMark> {
    let (id, hash) = text.split_once(' ')?;
    Some(LogMark { id: id.parse().ok()?, hash: u64::from_str_radix(hash, 16).ok()? })
}

fn digest(hex: &str) -> Result<[u8; 32], String> {
    let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| format!("header {DIGEST} is not a SHA-256"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part() -> PartHeaders {
        PartHeaders {
            site: Site(i64::MAX),
            batch: BatchNo(7),
            part: 2,
            parts: 3,
            total_bytes: 1 << 40,
            digest: [0xa5; 32],
            log: Some(LogMark { id: 9, hash: 3 }),
        }
    }

    #[test]
    fn headers_give_the_part_back() {
        assert_eq!(from_headers(Some(&to_headers(&part()))).unwrap(), part());
    }

    #[test]
    fn a_missing_or_damaged_mark_is_none() {
        let older = PartHeaders { log: None, ..part() };
        assert_eq!(from_headers(Some(&to_headers(&older))).unwrap(), older);
        for bad in ["", "9", "9 x", "x 3", "9 3 4", "99999999999999999999 3"] {
            let mut headers = to_headers(&part());
            headers.insert(HeaderName::from_static(LOG), bad);
            assert_eq!(from_headers(Some(&headers)).unwrap(), older, "{bad}");
        }
    }

    #[test]
    fn damaged_headers_are_a_reason() {
        assert!(from_headers(None).unwrap_err().contains("no headers"));
        for (name, bad) in [
            (SITE, "0"),
            (SITE, "-1"),
            (SITE, "x"),
            (BATCH, "-1"),
            (PART, "4294967296"),
            (DIGEST, "zz"),
            (DIGEST, &"é".repeat(32)),
        ] {
            let mut headers = to_headers(&part());
            headers.insert(HeaderName::from_static(name), bad);
            assert!(from_headers(Some(&headers)).unwrap_err().contains(name), "{name} {bad}");
        }
    }

    #[test]
    fn the_node_is_the_last_token() {
        assert_eq!(node_of("a.b-1.18446744073709551615"), NodeId(u64::MAX));
        assert_eq!(node_of("a.b-1.x"), NodeId(0));
    }
}
