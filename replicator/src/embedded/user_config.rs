//! Reads the top-level keys of the user's `server_config`, so that ours do not collide with them.
//!
//! This is no full parser: it only splits text at keys and brackets, and nats-server itself checks
//! the result (`-t`). It follows includes as nats-server does.

use super::EmbeddedError;
use std::collections::HashMap;
use std::path::Path;

/// The greatest depth of includes, for files that include themselves.
const DEPTH_MAX: usize = 16;

/// Top-level keys in lower case, each with the text of its value.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Keys(HashMap<String, String>);

impl Keys {
    /// Reads a file and its includes.
    pub(super) fn read(path: &Path) -> Result<Self, EmbeddedError> {
        let mut keys = Self::default();
        keys.add_file(path, 0)?;
        Ok(keys)
    }

    /// Reads a text without following includes.
    #[cfg(test)]
    pub(super) fn of(text: &str) -> Self {
        Self(
            scan(text)
                .into_iter()
                .map(|(key, value)| (key.to_lowercase(), value.to_owned()))
                .collect(),
        )
    }

    fn add_file(&mut self, path: &Path, depth: usize) -> Result<(), EmbeddedError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| EmbeddedError::UserConfig { path: path.to_owned(), error })?;
        for (key, value) in scan(&text) {
            if key.eq_ignore_ascii_case("include") && depth < DEPTH_MAX {
                // As in nats-server: relative to the including file, even if the path looks
                // absolute.
                let beside = path.parent().unwrap_or(Path::new("/"));
                self.add_file(&beside.join(unquote(value).trim_start_matches('/')), depth + 1)?;
            } else {
                self.0.insert(key.to_lowercase(), value.to_owned());
            }
        }
        Ok(())
    }

    /// Returns whether one of these keys is set.
    pub(super) fn any(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.0.contains_key(*key))
    }

    /// Returns the value of a key, without quotes.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|value| unquote(value))
    }

    /// Returns the inner text of a key whose value is a `{ block }`.
    pub(super) fn block(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.strip_prefix('{')?.strip_suffix('}')
    }

    /// Returns the value of the first of some keys within a block.
    pub(super) fn within(&self, block: &str, keys: &[&str]) -> Option<String> {
        let inner = scan(self.block(block)?);
        inner
            .into_iter()
            .find(|(key, _)| keys.iter().any(|k| key.eq_ignore_ascii_case(k)))
            .map(|(_, value)| unquote(value).to_owned())
    }
}

fn unquote(value: &str) -> &str {
    let inner = |quote| value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

/// Splits a text into (key, value) at its top level.
fn scan(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = skip_blank(text);
    // A whole file in braces is JSON.
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
    }
    loop {
        rest = skip_blank(rest);
        if rest.is_empty() || rest.starts_with('}') {
            return found;
        }
        let (key, after) = take(rest, |c| c.is_whitespace() || matches!(c, ':' | '=' | '{'));
        let after = after.trim_start_matches([' ', '\t']);
        let after = skip_blank(after.strip_prefix([':', '=']).unwrap_or(after));
        let (value, after) = take(after, |c| matches!(c, '\n' | ';' | ',' | '}'));
        // Skip a character that starts nothing.
        rest = if after.len() == rest.len() {
            &rest[rest.chars().next().map_or(0, char::len_utf8)..]
        } else {
            after
        };
        found.push((unquote(key), value));
    }
}

/// Removes leading white space, separators and comments.
fn skip_blank(mut text: &str) -> &str {
    loop {
        text = text.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ',' | ';'));
        if !text.starts_with('#') && !text.starts_with("//") {
            return text;
        }
        text = text.find('\n').map_or("", |end| &text[end..]);
    }
}

/// Takes one token: a quoted text, a bracketed piece, or the text before a comment or `ends`.
fn take(text: &str, ends: impl Fn(char) -> bool) -> (&str, &str) {
    let end = match text.chars().next() {
        Some(quote @ ('"' | '\'')) => quoted_len(text, quote),
        Some('{' | '[' | '(') => bracketed_len(text),
        _ => {
            let comment = [" #", "\t#", " //", "\t//"]
                .iter()
                .filter_map(|c| text.find(c))
                .min()
                .unwrap_or(text.len());
            text.find(ends).unwrap_or(text.len()).min(comment)
        }
    };
    (text[..end].trim(), &text[end..])
}

fn quoted_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

fn bracketed_len(text: &str) -> usize {
    let (mut depth, mut at, mut blank_before) = (0usize, 0, true);
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let mut len = c.len_utf8();
        match c {
            '"' | '\'' => len = quoted_len(rest, c),
            '#' if blank_before => len = rest.find('\n').unwrap_or(rest.len()),
            '/' if blank_before && rest.starts_with("//") => {
                len = rest.find('\n').unwrap_or(rest.len())
            }
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth -= 1,
            _ => {}
        }
        at += len;
        blank_before = c.is_whitespace() || matches!(c, '{' | '[' | ',' | ';' | '#' | '/');
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_every_way_of_writing_them() {
        let keys = Keys::of(
            r#"
            # port: 1
            // listen: 1
            PORT: 4222, "server_name" = 'n 1'; host 127.0.0.1 # loopback
            jetstream {
                // store_dir: "no"
                max_file_store: 1GB  # } a bracket in a comment
                Store_Dir: "/data/}js"
            }
            accounts: { A: { users: [ { user: "a}", password: "b" } ] } }
            leafnodes { remotes = [ { urls: ["nats-leaf://h:7422"] } ] }
            tls: { cert_file: "./c.pem" }"#,
        );
        assert!(
            keys.any(&["port"])
                && keys.any(&["accounts"])
                && keys.any(&["leafnodes"])
                && keys.any(&["tls"])
        );
        assert!(!keys.any(&["listen", "cluster", "users", "max_file_store"]));
        assert_eq!(keys.value("port"), Some("4222"));
        assert_eq!(keys.value("server_name"), Some("n 1"));
        assert_eq!(keys.value("host"), Some("127.0.0.1"));
        assert_eq!(
            keys.within("jetstream", &["store_dir", "storedir"]).as_deref(),
            Some("/data/}js")
        );
        assert_eq!(keys.within("accounts", &["store_dir"]), None);
        assert_eq!(Keys::of("jetstream: enabled\nport: 1").value("jetstream"), Some("enabled"));
        assert_eq!(
            Keys::of(r#"{"port": -1, "jetstream": {"store_dir": "x"}}"#)
                .within("jetstream", &["store_dir"])
                .as_deref(),
            Some("x")
        );
    }

    #[test]
    fn broken_text_ends() {
        for text in ["{", "}", "a: {", "\"", "a: \"", ":::", "= = =", "a {{{ ]", "é: ü\nö"] {
            let _ = Keys::of(text);
        }
    }

    #[test]
    fn includes_are_followed_beside_the_including_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("main.conf"), "include ./sub/a.conf\nport: 1\n").unwrap();
        std::fs::write(dir.path().join("sub/a.conf"), "include \"b.conf\"\n").unwrap();
        std::fs::write(dir.path().join("sub/b.conf"), "accounts {}\n").unwrap();
        let keys = Keys::read(&dir.path().join("main.conf")).unwrap();
        assert!(keys.any(&["accounts"]) && keys.any(&["port"]));
        let error = Keys::read(&dir.path().join("none.conf")).unwrap_err();
        assert!(error.to_string().contains("none.conf"), "{error}");
    }
}
