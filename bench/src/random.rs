//! Numbers that look random and are the same in every run, so that runs can be compared.

/// A generator (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`; 0 if there is none.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }

    /// Returns a number from 0 to 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Returns the UUID (version 4) of a number. Different numbers have different ones.
pub(crate) fn uuid(number: u64) -> String {
    let mut random = Random::new(number);
    // Each half alone is a bijection of the seed; two bits of each are those of the version.
    let (high, low) = (random.next(), random.next());
    form((high & !0xf000) | 0x4000, low)
}

/// Returns a UUID that begins with a time (version 7): 20 numbers to a millisecond.
pub(crate) fn uuid7(number: u64) -> String {
    /// 2026-01-01, unix milliseconds.
    const BEGAN_MS: u64 = 1_767_225_600_000;
    let mut random = Random::new(number);
    let (high, low) = (random.next(), random.next());
    form(((BEGAN_MS + number / 20) << 16) | 0x7000 | (high & 0xfff), low)
}

/// Writes a UUID, whose version is in the first half already (RFC 9562).
fn form(high: u64, low: u64) -> String {
    let low = (low & !(3 << 62)) | (2 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_its_form_and_is_its_own() {
        for (of, version) in [(uuid as fn(u64) -> String, b'4'), (uuid7, b'7')] {
            let all: std::collections::HashSet<String> = (0..10_000).map(of).collect();
            assert_eq!(all.len(), 10_000);
            for text in all.iter().take(100) {
                let bytes = text.as_bytes();
                assert!(
                    text.len() == 36 && bytes[14] == version && b"89ab".contains(&bytes[19]),
                    "{text}"
                );
            }
            assert_eq!(of(7), of(7));
        }
    }

    #[test]
    fn uuids_that_begin_with_the_time_ascend_with_it() {
        let times: Vec<String> = (0..10_000).map(|number| uuid7(number)[..13].to_owned()).collect();
        assert!(times.is_sorted() && times.first() < times.last());
    }

    #[test]
    fn numbers_stay_in_their_range() {
        let mut random = Random::new(1);
        assert!((0..1_000).all(|_| random.below(10) < 10 && (0.0..1.0).contains(&random.share())));
        assert_eq!(random.below(0), 0);
    }
}
