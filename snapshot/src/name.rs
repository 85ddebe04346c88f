//! The name of an object in a store.

use std::fmt;

/// The longest name, in bytes. The longest one in use has 75.
const BYTES_MAX: usize = 200;

/// The name of an object: lower-case words, digits, `-` and `.`, in folders separated by `/`. It
/// never leads out of a store's folder, and needs no quoting in a URL, a path or a subject (there
/// `/` and `.` have to be replaced).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Checks a text. None if it is not a name.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let is_part = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part
                    .bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.'))
        };
        (text.len() <= BYTES_MAX && text.split('/').all(is_part)).then_some(Self(text))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn a_name_never_leads_out_of_its_folder() {
        for good in ["chunk/ab/0a", "manifest/20261128T150000.123Z-0a.json", "a"] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "/", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "a\\b", "a b", "ä", "*"]
        {
            assert_eq!(Name::new(bad), None, "{bad}");
        }
        assert_eq!(Name::new("a".repeat(201)), None);
    }
}
