//! Splits the text of a CREATE INDEX into its terms and its WHERE.
//!
//! Arrives: the text as `sqlite_schema` keeps it. Leaves: the texts of the terms, the WHERE, and
//! the words that can name a column. Pure. The trigger that logs displaced rows repeats these texts
//! as they are, so that the planner recognises the index.

/// The parts of a CREATE INDEX text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IndexSql {
    /// The indexed terms without ASC and DESC, in index order.
    pub terms: Vec<String>,
    /// The condition of a partial index.
    pub filter: Option<String>,
    /// Every identifier in the terms and the condition, without quotes: columns, functions and
    /// keywords alike.
    pub words: Vec<String>,
}

/// Returns the parts of `CREATE [UNIQUE] INDEX .. ON table (..) [WHERE ..]`; None for a text that
/// is not one.
pub(super) fn parse(sql: &str) -> Option<IndexSql> {
    let tokens = tokens(sql);
    let on = tokens.iter().position(|t| t.is_keyword("ON"))?;
    let open = on + tokens[on..].iter().position(|t| t.text == "(")?;
    let (mut terms, mut depth, mut start) = (Vec::new(), 0_usize, open + 1);
    let mut close = None;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && token.text == ",") {
            terms.push(term(sql, tokens.get(start..at)?)?);
            start = at + 1;
        }
        if depth == 0 {
            close = Some(at);
            break;
        }
    }
    let rest = tokens.get(close? + 1..)?;
    let filter = match rest {
        [] => None,
        [word, condition @ ..] if word.is_keyword("WHERE") => Some(text(sql, condition)?),
        _ => return None,
    };
    let words = tokens[open..].iter().filter_map(Token::word).collect();
    Some(IndexSql { terms, filter, words })
}

/// The text of one term, without its ASC or DESC.
fn term(sql: &str, tokens: &[Token<'_>]) -> Option<String> {
    match tokens {
        [inside @ .., last] if last.is_keyword("ASC") || last.is_keyword("DESC") => {
            text(sql, inside)
        }
        all => text(sql, all),
    }
}

fn text(sql: &str, tokens: &[Token<'_>]) -> Option<String> {
    let (first, last) = (tokens.first()?, tokens.last()?);
    Some(sql[first.start..last.start + last.text.len()].to_owned())
}

struct Token<'a> {
    start: usize,
    text: &'a str,
}

impl Token<'_> {
    fn is_keyword(&self, word: &str) -> bool {
        self.text.eq_ignore_ascii_case(word)
    }

    /// The identifier, without its quotes.
    fn word(&self) -> Option<String> {
        let inside = || &self.text[1..self.text.len().saturating_sub(1).max(1)];
        match self.text.chars().next()? {
            '"' => Some(inside().replace("\"\"", "\"")),
            '`' => Some(inside().replace("``", "`")),
            '[' => Some(inside().to_owned()),
            c if is_word(c) && !c.is_ascii_digit() => Some(self.text.to_owned()),
            _ => None,
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// Cuts SQL into words, quoted texts and single characters; white space and comments are left out.
///
/// Source: <https://www.sqlite.org/src/file/src/tokenize.c>.
fn tokens(sql: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = sql[at..].chars().next() {
        let rest = &sql[at..];
        let comment = rest.starts_with("--") || rest.starts_with("/*");
        let length = match c {
            _ if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '\'' | '"' | '`' => quoted(rest, c),
            '[' => rest.find(']').map_or(rest.len(), |end| end + 1),
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        if !comment && !c.is_whitespace() {
            found.push(Token { start: at, text: &rest[..length] });
        }
        at += length;
    }
    found
}

/// The length of a quoted text, in which the quote itself is doubled.
fn quoted(text: &str, quote: char) -> usize {
    let mut at = 1;
    while let Some(end) = text[at..].find(quote) {
        at += end + 1;
        if !text[at..].starts_with(quote) {
            return at;
        }
        at += 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_and_condition_are_found() {
        for (sql, terms, filter) in [
            ("CREATE UNIQUE INDEX i ON t(a)", vec!["a"], None),
            ("create unique index i on t ( a desc , \"b,c\" asc )", vec!["a", "\"b,c\""], None),
            ("CREATE UNIQUE INDEX \"x ON y(\" ON [t(t](lower(a, 1))", vec!["lower(a, 1)"], None),
            (
                "CREATE UNIQUE INDEX i ON t(a COLLATE NOCASE DESC, b || ')') WHERE c != '' AND d",
                vec!["a COLLATE NOCASE", "b || ')'"],
                Some("c != '' AND d"),
            ),
            (
                "CREATE INDEX i ON t(/* ( */ a -- )\n, 'it''s') WHERE(a)",
                vec!["a", "'it''s'"],
                Some("(a)"),
            ),
            ("CREATE UNIQUE INDEX ä ON t(ä->>'$.x')", vec!["ä->>'$.x'"], None),
        ] {
            let found = parse(sql).unwrap();
            assert_eq!(found.terms, terms, "{sql}");
            assert_eq!(found.filter.as_deref(), filter, "{sql}");
        }
        for broken in
            ["", "CREATE UNIQUE INDEX i", "CREATE INDEX i ON t(a", "CREATE INDEX i ON t()"]
        {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn every_name_of_a_column_is_among_the_words() {
        let found = parse(
            "CREATE UNIQUE INDEX i ON t(lower(\"a\"\"b\"), [c d], `e`) WHERE f1 > 'g' AND 2 > h",
        );
        let words = found.unwrap().words;
        for name in ["a\"b", "c d", "e", "f1", "h"] {
            assert!(words.iter().any(|w| w == name), "{name}: {words:?}");
        }
        assert!(!words.iter().any(|w| w == "g" || w == "2"), "{words:?}");
    }
}
