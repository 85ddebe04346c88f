//! Splits the text of a CREATE INDEX into its terms and its WHERE.
//!
//! Arrives: the text as `sqlite_schema` keeps it. Leaves: the texts of the terms, the WHERE, and
//! the words that can name a column. Pure. The trigger that logs displaced rows repeats these texts
//! as they are, so that the planner recognises the index.

use super::sql_tokens::{Class, Token, tokens};

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
    let tokens = tokens(sql).ok()?;
    let on = tokens.iter().position(|t| t.is("ON"))?;
    let open = on + tokens[on..].iter().position(|t| t.is_char('('))?;
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
        [word, condition @ ..] if word.is("WHERE") => Some(text(sql, condition)?),
        _ => return None,
    };
    let words = tokens[open..].iter().filter_map(word).collect();
    Some(IndexSql { terms, filter, words })
}

/// The text of one term, without its ASC or DESC.
fn term(sql: &str, tokens: &[Token<'_>]) -> Option<String> {
    match tokens {
        [inside @ .., last] if last.is("ASC") || last.is("DESC") => text(sql, inside),
        all => text(sql, all),
    }
}

fn text(sql: &str, tokens: &[Token<'_>]) -> Option<String> {
    let (first, last) = (tokens.first()?, tokens.last()?);
    Some(sql[first.start..last.end()].to_owned())
}

/// The identifier, without its quotes.
fn word(token: &Token<'_>) -> Option<String> {
    matches!(token.class, Class::Word | Class::Quoted).then(|| token.name()).flatten()
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
