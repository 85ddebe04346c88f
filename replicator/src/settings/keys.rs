//! Compares the keys of a file with the known ones, which are those of the default settings.

use super::Settings;
use std::collections::BTreeMap;
use toml::Value;
use toml::de::{DeTable, DeValue};

/// A defect of one key.
#[derive(Clone, Debug)]
pub(super) enum Finding {
    /// The key is unknown.
    Unknown { key: String, nearest: String, at: usize },
    /// The value has a wrong type.
    WrongType { key: String, expected: &'static str, found: &'static str, at: usize },
}

/// The keys found in a file.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The defects, in the order of the file.
    pub(super) wrong: Vec<Finding>,
    /// The position of each key's value in the file.
    spans: BTreeMap<String, std::ops::Range<usize>>,
}

impl Found {
    /// Returns whether the file sets this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.spans.contains_key(key)
    }

    /// Returns the key whose value covers a position.
    pub(super) fn key_at(&self, at: usize) -> Option<&str> {
        self.spans.iter().find(|(_, span)| span.contains(&at)).map(|(key, _)| key.as_str())
    }
}

/// Returns whether the value of a key must never be shown.
pub(super) fn is_secret(key: &str) -> bool {
    // Server URLs may contain a user and a password.
    ["password", "secret", "token", "url", "urls"].iter().any(|word| key.ends_with(word))
}

/// Returns all keys and sections with their default values, by full name.
fn known() -> BTreeMap<String, Value> {
    let mut out = BTreeMap::new();
    if let Ok(Value::Table(defaults)) = Value::try_from(Settings::default()) {
        collect("", &defaults, &mut out);
    }
    out
}

fn collect(prefix: &str, table: &toml::Table, out: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let key = join(prefix, name);
        if let Value::Table(inner) = value {
            collect(&key, inner, out);
        }
        out.insert(key, value.clone());
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// Finds the keys of a file.
pub(super) fn find(table: &DeTable<'_>) -> Found {
    let mut found = Found::default();
    walk("", table, &known(), &mut found);
    found.wrong.sort_by_key(|finding| match finding {
        Finding::Unknown { at, .. } | Finding::WrongType { at, .. } => *at,
    });
    found
}

fn walk(prefix: &str, table: &DeTable<'_>, known: &BTreeMap<String, Value>, found: &mut Found) {
    for (name, value) in table {
        let key = join(prefix, name.get_ref());
        let Some(default) = known.get(&key) else {
            let nearest = nearest(&key, known);
            found.wrong.push(Finding::Unknown { key, nearest, at: name.span().start });
            continue;
        };
        let at = value.span();
        if let (Value::Table(_), DeValue::Table(inner)) = (default, value.get_ref()) {
            walk(&key, inner, known, found);
            continue;
        }
        if let Some(wrong) = wrong_type(default, value.get_ref()) {
            found.wrong.push(Finding::WrongType {
                key: key.clone(),
                expected: kind(default),
                found: wrong,
                at: at.start,
            });
        }
        found.spans.insert(key, at);
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a time",
        Value::Array(_) => "a list of texts",
        Value::Table(_) => "a section",
    }
}

/// Returns the found type if it differs from the default's.
fn wrong_type(default: &Value, value: &DeValue<'_>) -> Option<&'static str> {
    let (found, fits) = match value {
        DeValue::String(_) => ("a text", default.is_str()),
        DeValue::Integer(_) => ("a whole number", default.is_integer()),
        DeValue::Float(_) => ("a number with a fraction", default.is_float()),
        DeValue::Boolean(_) => ("true or false", default.is_bool()),
        DeValue::Datetime(_) => ("a time", false),
        DeValue::Array(list) if list.iter().all(|item| item.get_ref().is_str()) => {
            ("a list", default.is_array())
        }
        DeValue::Array(_) => ("a list of something else", false),
        DeValue::Table(_) => ("a section", default.is_table()),
    };
    (!fits).then_some(found)
}

/// Returns the known key that was most probably meant: a similar name in the same section, else a
/// similar name anywhere.
fn nearest(key: &str, known: &BTreeMap<String, Value>) -> String {
    let (section, leaf) = split(key);
    let distance = |candidate: &str| {
        let (their_section, their_leaf) = split(candidate);
        let elsewhere = if their_section == section { 0.0 } else { 0.3 };
        let leaf = leaf.to_ascii_lowercase();
        let like = strsim::jaro_winkler(&leaf, their_leaf)
            .max(strsim::normalized_damerau_levenshtein(&leaf, their_leaf));
        1.0 - like + elsewhere * (1.0 - strsim::normalized_levenshtein(section, their_section))
    };
    let mut best = (f64::MAX, "");
    for candidate in known.keys() {
        let score = distance(candidate);
        if score < best.0 {
            best = (score, candidate);
        }
    }
    best.1.to_owned()
}

fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('.').unwrap_or(("", key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_name_every_key() {
        let known = known();
        for key in [
            "db_path",
            "tables.include",
            "schema.replicate",
            "snapshot.s3.secret",
            "snapshot.sftp.url",
            "nats.creds_file",
            "health_check.detailed",
        ] {
            assert!(known.contains_key(key), "{key}");
        }
        assert!(known.len() > 70, "{}", known.len());
    }

    #[test]
    fn secret_keys_are_known_as_such() {
        for key in [
            "nats.user_password",
            "snapshot.s3.secret",
            "snapshot.s3.session_token",
            "snapshot.webdav.url",
            "nats.urls",
        ] {
            assert!(is_secret(key), "{key}");
        }
        assert!(!is_secret("node_id"));
    }
}
