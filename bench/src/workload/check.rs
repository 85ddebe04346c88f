//! Reads a workload file and refuses what could not run, with line and reason.

use super::format::{Transaction, Value, Workload, WorkloadError};
use rusqlite::Connection;
use std::ops::{Range, RangeInclusive};

const NODES: RangeInclusive<usize> = 2..=9;
const SECONDS: RangeInclusive<u64> = 1..=86_400;
const CONNECTIONS: RangeInclusive<u64> = 1..=100;
const REPEAT: RangeInclusive<u64> = 1..=10_000_000;
/// Transactions a second of a connection.
const RATE: RangeInclusive<f64> = 0.001..=1_000_000.0;
/// The longest text or blob, in bytes.
const LONGEST: u32 = 100_000_000;

/// The file, and what is wrong in it.
struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn wrong(&self, at: Option<Range<usize>>, reason: impl Into<String>) -> WorkloadError {
        let line = at.map(|at| {
            let before = self.text.as_bytes().get(..at.start).unwrap_or_default();
            before.iter().filter(|byte| **byte == b'\n').count() + 1
        });
        WorkloadError { file: self.file.to_owned(), line, reason: reason.into() }
    }

    fn within<T: PartialOrd + std::fmt::Display>(
        &self,
        key: &str,
        value: &T,
        range: &RangeInclusive<T>,
    ) -> Result<(), WorkloadError> {
        if range.contains(value) {
            return Ok(());
        }
        let (least, most) = (range.start(), range.end());
        Err(self.wrong(None, format!("{key} = {value} is not from {least} to {most}")))
    }
}

/// Parses and checks a workload with its schema. `names` are those of the two files.
pub(super) fn parse(
    schema: &str,
    text: &str,
    names: [String; 2],
) -> Result<Workload, WorkloadError> {
    let [schema_file, file] = &names;
    let source = Source { file, text };
    let mut workload: Workload = toml::from_str(text)
        .map_err(|error| source.wrong(error.span(), error.message().replace('\n', " ")))?;
    schema.clone_into(&mut workload.schema);
    source.within("nodes", &workload.nodes, &NODES)?;
    source.within("seconds", &workload.seconds, &SECONDS)?;
    source.within("arrives_within", &workload.arrives_within, &SECONDS)?;
    if workload.writer.is_empty() || workload.transaction.is_empty() {
        return Err(source.wrong(None, "there must be a [[transaction]] and a [[writer]]"));
    }
    let db = with_schema(schema).map_err(|error| WorkloadError {
        file: schema_file.clone(),
        line: None,
        reason: error.to_string(),
    })?;
    for transaction in workload.setup.iter().chain(&workload.transaction) {
        check_transaction(&source, &db, transaction)?;
    }
    if workload.transaction.iter().all(|t| t.weight == 0) {
        return Err(source.wrong(None, "no transaction has a weight above 0"));
    }
    check_writers(&source, &workload)?;
    Ok(workload)
}

fn with_schema(schema: &str) -> rusqlite::Result<Connection> {
    let db = Connection::open_in_memory()?;
    db.execute_batch(schema)?;
    Ok(db)
}

fn check_transaction(
    source: &Source,
    db: &Connection,
    transaction: &Transaction,
) -> Result<(), WorkloadError> {
    source.within("repeat", &transaction.repeat, &REPEAT)?;
    let mut used = Vec::new();
    for sql in &transaction.statements {
        let wrong = |reason: String| source.wrong(Some(sql.span()), reason);
        let statement = db.prepare(sql.get_ref()).map_err(|error| wrong(error.to_string()))?;
        for at in 1..=statement.parameter_count() {
            let name = statement.parameter_name(at).and_then(|name| name.get(1..)).unwrap_or("");
            if !transaction.values.keys().any(|key| key.get_ref() == name) {
                return Err(wrong(format!("no value for parameter {at} ({name:?}) in `values`")));
            }
            used.push(name.to_owned());
        }
    }
    if transaction.statements.is_empty() {
        return Err(source.wrong(None, "a transaction has no statements"));
    }
    for (name, value) in &transaction.values {
        if !used.contains(name.get_ref()) {
            let reason = format!("no statement has a parameter :{}", name.get_ref());
            return Err(source.wrong(Some(name.span()), reason));
        }
        if let Some(reason) = wrong_value(value.get_ref()) {
            return Err(source.wrong(Some(value.span()), reason));
        }
    }
    Ok(())
}

fn wrong_value(value: &Value) -> Option<String> {
    let ordered = match value {
        Value::Integer([a, b]) | Value::Skewed([a, b]) => a <= b,
        Value::Real([a, b]) => a <= b,
        Value::Text([a, b]) | Value::Blob([a, b]) if *b > LONGEST => {
            return Some(format!("{a} to {b}: longer than {LONGEST}"));
        }
        Value::Text([a, b]) | Value::Blob([a, b]) => a <= b,
        Value::Choice(choices) => {
            let plain = |v: &toml::Value| v.is_str() || v.is_integer() || v.is_float();
            let fits = !choices.is_empty() && choices.iter().all(plain);
            return (!fits).then(|| "a choice is a list of texts and numbers".to_owned());
        }
        Value::Uuid | Value::Number | Value::Now => true,
    };
    (!ordered).then(|| "the first number is greater than the second".to_owned())
}

fn check_writers(source: &Source, workload: &Workload) -> Result<(), WorkloadError> {
    for writer in &workload.writer {
        source.within("connections", &writer.connections, &CONNECTIONS)?;
        let node = &writer.node;
        if !(1..=workload.nodes).contains(node.get_ref()) {
            let reason = format!("there is no node {}; nodes = {}", node.get_ref(), workload.nodes);
            return Err(source.wrong(Some(node.span()), reason));
        }
        if let Some(rate) = writer.rate.as_ref().filter(|rate| !RATE.contains(rate.get_ref())) {
            let reason = "a rate is from 0.001 to 1,000,000; without one there is no limit";
            return Err(source.wrong(Some(rate.span()), reason));
        }
        for name in &writer.transactions {
            if !workload.transaction.iter().any(|t| t.name == *name.get_ref()) {
                let reason = format!("no [[transaction]] has the name {:?}", name.get_ref());
                return Err(source.wrong(Some(name.span()), reason));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);";
    const GOOD: &str = r#"
nodes = 3
[[transaction]]
name = "add"
statements = ["INSERT INTO t VALUES (:id, :v)"]
values = { id = "number", v = { text = [1, 5] } }
[[writer]]
node = 3
rate = 50.0
"#;

    fn parsed(text: &str) -> Result<Workload, WorkloadError> {
        parse(SCHEMA, text, ["s.sql", "w.toml"].map(str::to_owned))
    }

    #[test]
    fn a_file_has_defaults() {
        let workload = parsed(GOOD).unwrap();
        assert_eq!((workload.nodes, workload.seconds, workload.arrives_within), (3, 10, 120));
        assert_eq!((workload.transaction[0].weight, workload.transaction[0].repeat), (1, 1));
        assert_eq!(workload.writer[0].connections, 1);
        assert!(!workload.schema.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let cases = [
            ("INSERT INTO t VALUES", "INSERT INTO u VALUES", Some(5), "no such table: u"),
            ("(:id, :v)", "(:id, :w)", Some(5), "no value for parameter 2 (\"w\")"),
            ("(:id, :v)", "(?, :v)", Some(5), "no value for parameter 1"),
            ("id = \"number\"", "x = \"now\", id = \"number\"", Some(6), "parameter :x"),
            ("[1, 5]", "[5, 1]", Some(6), "greater than the second"),
            ("\"number\"", "\"numbr\"", Some(6), "unknown variant"),
            ("node = 3", "node = 4", Some(8), "there is no node 4"),
            ("rate = 50.0", "rate = 0.0", Some(9), "from 0.001"),
            ("rate = 50.0", "transactions = [\"ad\"]", Some(9), "the name \"ad\""),
            ("rate = 50.0", "speed = 1", Some(9), "unknown field `speed`"),
            ("nodes = 3", "nodes = 30", None, "not from 2 to 9"),
            ("name = \"add\"", "name = \"add", Some(4), ""),
        ];
        for (good, bad, line, reason) in cases {
            let error = parsed(&GOOD.replace(good, bad)).unwrap_err();
            assert_eq!(error.line, line, "{bad}: {error}");
            assert!(error.reason.contains(reason) && error.file == "w.toml", "{bad}: {error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        let error = parse("CREATE TABL t", GOOD, ["s.sql", "w.toml"].map(str::to_owned));
        assert!(error.unwrap_err().to_string().starts_with("s.sql: near"));
    }

    #[test]
    fn the_examples_are_right() {
        crate::workload::shop().unwrap();
        let sensors = include_str!("../../examples/sensors.toml");
        let schema = include_str!("../../examples/sensors.sql");
        parse(schema, sensors, ["s", "w"].map(str::to_owned)).unwrap();
    }
}
