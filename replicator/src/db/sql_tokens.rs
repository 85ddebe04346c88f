//! Cuts SQL text into tokens as SQLite does, and writes them in one form, so that two spellings of
//! one definition can be compared.
//!
//! Arrives: SQL text that SQLite has accepted, or text from the network. Leaves: tokens with their
//! places, or an error where a quote does not end. Pure; does not recurse.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A keyword or a bare identifier.
    Word,
    /// An identifier in `"`, `[` or a backtick. (A `"` that names no column is a string for
    /// SQLite.)
    Quoted,
    /// A string in `'`, or a blob.
    Text,
    /// A number, or one character of anything else.
    Other,
}

/// A token and its place in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'s> {
    /// What it is.
    pub class: Class,
    /// Where it starts, in bytes.
    pub start: usize,
    /// As written.
    pub text: &'s str,
}

/// A quote or a comment that does not end, or a NUL.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the SQL cannot be read from character {0} on")]
pub struct Unreadable(pub usize);

/// Words that mean something else without their quotes, at least somewhere in a definition.
const RESERVED: &str = " abort add all alter always and as asc autoincrement before begin between \
    by cascade case cast check collate commit conflict constraint create cross current_date \
    current_time current_timestamp default deferrable deferred delete desc distinct drop else end \
    escape except exists fail false filter foreign from full generated glob group having if ignore \
    in index indexed initially inner insert instead intersect into is isnull join left like limit \
    match natural no not nothing notnull null on or order outer over primary raise references \
    regexp replace restrict returning right rollback row select set stored strict table then to \
    transaction trigger true union unique update using values virtual when where with without ";

impl<'s> Token<'s> {
    /// Where it ends.
    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Whether it is this word, without quotes.
    pub fn is(&self, word: &str) -> bool {
        self.class == Class::Word && self.text.eq_ignore_ascii_case(word)
    }

    /// Whether it is this one character.
    pub fn is_char(&self, c: char) -> bool {
        self.class == Class::Other && self.text.chars().eq([c])
    }

    /// What it names, if it stands where a name is expected. SQLite takes strings there too.
    pub fn name(&self) -> Option<String> {
        let inside = |quote: &str| {
            let text = self.text.get(1..self.text.len() - 1).unwrap_or_default();
            text.replace(&quote.repeat(2), quote)
        };
        match (self.class, self.text.as_bytes().first()?) {
            (Class::Word, _) => Some(self.text.to_owned()),
            (Class::Quoted, b'[') => Some(self.text[1..self.text.len() - 1].to_owned()),
            (Class::Quoted, b'`') => Some(inside("`")),
            (Class::Quoted, _) => Some(inside("\"")),
            (Class::Text, b'\'') => Some(inside("'")),
            _ => None,
        }
    }

    /// The token in the one form that all of its spellings have.
    pub fn normal(&self) -> String {
        match self.class {
            Class::Quoted => self.name().map(|name| ident(&name)).unwrap_or_default(),
            Class::Text => self.text.to_owned(),
            Class::Word | Class::Other => self.text.to_ascii_lowercase(),
        }
    }
}

/// The form of a name that [`normal`] gives it.
pub fn ident(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let bare = lower.starts_with(|c: char| is_word(c) && !c.is_ascii_digit() && c != '$')
        && lower.chars().all(is_word)
        && !RESERVED.contains(&format!(" {lower} "));
    if bare { lower } else { crate::db::sql::quote(&lower) }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// Cuts text into tokens. White space and comments are left out.
///
/// # Errors
/// [`Unreadable`] names the place.
pub fn tokens(sql: &str) -> Result<Vec<Token<'_>>, Unreadable> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = sql[at..].chars().next() {
        let rest = &sql[at..];
        let (class, length) = match first {
            '\0' => return Err(Unreadable(at)),
            c if c.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            '-' if rest.starts_with("--") => {
                at += rest.find('\n').map_or(rest.len(), |end| end + 1);
                continue;
            }
            '/' if rest.starts_with("/*") => {
                // As SQLite: a comment that does not end reaches to the end. Text that is put
                // behind it would be lost, so it is refused.
                at += rest[2..].find("*/").ok_or(Unreadable(at))? + 4;
                continue;
            }
            '\'' => (Class::Text, quoted(rest, '\'', at)?),
            '"' | '`' => (Class::Quoted, quoted(rest, first, at)?),
            '[' => (Class::Quoted, rest.find(']').ok_or(Unreadable(at))? + 1),
            'x' | 'X' if rest[1..].starts_with('\'') => {
                (Class::Text, 1 + quoted(&rest[1..], '\'', at)?)
            }
            c if is_word(c) && !c.is_ascii_digit() && c != '$' => {
                (Class::Word, rest.find(|c| !is_word(c)).unwrap_or(rest.len()))
            }
            c if c.is_ascii_digit() || c == '.' && rest[1..].starts_with(is_digit) => {
                (Class::Other, number(rest))
            }
            c => (Class::Other, c.len_utf8()),
        };
        found.push(Token { class, start: at, text: &rest[..length] });
        at += length;
    }
    Ok(found)
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

/// The length of a quoted token. A doubled quote stands for itself.
fn quoted(rest: &str, quote: char, at: usize) -> Result<usize, Unreadable> {
    let mut from = 1;
    loop {
        from += rest[from..].find(quote).ok_or(Unreadable(at))? + 1;
        if !rest[from..].starts_with(quote) {
            return Ok(from);
        }
        from += 1;
    }
}

fn number(rest: &str) -> usize {
    let hex = rest.starts_with("0x") || rest.starts_with("0X");
    let bytes = rest.as_bytes();
    let signed = |i: usize| {
        i > 0 && !hex && matches!(bytes[i - 1], b'e' | b'E') && b"+-".contains(&bytes[i])
    };
    (0..bytes.len())
        .find(|i| !(is_word(char::from(bytes[*i])) || bytes[*i] == b'.' || signed(*i)))
        .unwrap_or(bytes.len())
}

/// The tokens of a definition in the one form that all of its spellings have.
pub fn normal(tokens: &[Token<'_>]) -> Vec<String> {
    let mut out = Vec::with_capacity(tokens.len());
    for (i, token) in tokens.iter().enumerate() {
        let after_default = i > 0 && tokens[i - 1].is("default");
        let name = token.name().filter(|_| after_default);
        out.push(match name {
            // A name there is a string, and its case counts.
            Some(name) if token.class != Class::Word => crate::db::sql::quote_text(&name),
            Some(name) if ident(&name).starts_with('"') => token.normal(),
            Some(name) => crate::db::sql::quote_text(&name),
            None => token.normal(),
        });
    }
    out
}

/// One text for all spellings of a statement of `sqlite_schema`; the text itself if it cannot be
/// read.
pub fn normal_text(sql: &str) -> String {
    tokens(sql).map_or_else(|_| sql.to_owned(), |tokens| normal(&tokens).join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_definition_are_equal_and_others_are_not() {
        for (a, b, equal) in [
            ("a TEXT", "A\n text -- note\n", true),
            ("[a b] int", "\"A B\" INT", true),
            ("`a`", "a", true),
            ("\"unique\"", "unique", false),
            ("\"null\"", "NULL", false),
            ("\"key\"", "key", true),
            ("'A'", "'a'", false),
            ("'a''b' /* x */ , 1", "'a''b',1", true),
            ("DEFAULT \"Abc\"", "default 'Abc'", true),
            ("DEFAULT \"Abc\"", "default \"abc\"", false),
            ("DEFAULT NULL", "default null", true),
            ("DEFAULT abc", "default 'abc'", true),
            ("x'0A'", "x '0A'", false),
            ("1e-3", "1E-3", true),
            ("0x1e-3", "0x1e - 3", true),
            ("\u{e4}b", "\"\u{e4}B\"", true),
            ("a.b", "a . b", true),
        ] {
            assert_eq!(normal_text(a) == normal_text(b), equal, "{a} | {b}");
        }
    }

    #[test]
    fn text_that_does_not_end_is_refused() {
        for sql in ["'a", "a \"b", "[a", "`", "a /* b", "x'0", "a\0b", "'a''", "/*/"] {
            assert!(tokens(sql).is_err(), "{sql}");
        }
        assert_eq!(tokens("a -- no end").map(|t| t.len()), Ok(1));
        assert_eq!(tokens("$1 ?2 :a @b \u{20ac} ''''").map(|t| t.len()), Ok(10));
    }
}
