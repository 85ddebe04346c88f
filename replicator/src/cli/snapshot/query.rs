//! `harmonylite snapshot query`.
//!
//! Arrives: a snapshot in a store, and one statement. Leaves: its rows, as a table or as lines of
//! JSON. Owns: memory is bounded, however many rows there are. Nothing is written anywhere.

use super::{at_store, failed};
use crate::cli::args::{Global, QueryOptions};
use crate::cli::exit::{Exit, Failure};
use crate::cli::{show, table};
use crate::db::sql::literal;
use crate::model::batch::Value;
use crate::settings::{Settings, StoreSettings};
use anyhow::Result;
use data_encoding::HEXLOWER;
use harmonylite_snapshot::catalog::find;
use harmonylite_snapshot::query::{QueryError, RemoteDatabase};
use rusqlite::ErrorCode;
use rusqlite::types::ValueRef;
use serde_json::json;
use std::ops::ControlFlow;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// A table of more rows, or of more bytes, is continued by another one.
const TABLE_ROWS: usize = 1_000;
const TABLE_BYTES: usize = 1 << 20;

/// Shows the rows of a statement. Ctrl-C ends it.
pub(super) fn run(
    global: &Global,
    settings: &Settings,
    from: &StoreSettings,
    options: &QueryOptions,
) -> Result<()> {
    let has_more = at_store(global, settings, from, async |store| {
        let found = find(store, options.snapshot.as_deref()).await.map_err(failed)?;
        let stop = watch::Sender::new(false);
        let stopped = stop.subscribe();
        tokio::spawn(async move {
            // Without a handler, Ctrl-C ends the process.
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.send_replace(true);
            }
        });
        let runtime = Handle::current();
        tokio::task::block_in_place(|| {
            let db = RemoteDatabase::open(store, found, runtime, stopped).map_err(unanswered)?;
            if options.json { lines(&db, options) } else { tables(&db, options) }
        })
    })?;
    if has_more {
        eprintln!(
            "there are more than {} rows: --limit N shows more, --limit 0 all",
            options.limit
        );
    }
    Ok(())
}

/// Counts rows up to the limit.
struct Count {
    limit: u64,
    rows: u64,
    has_more: bool,
}

impl Count {
    fn new(limit: u64) -> Self {
        Self { limit, rows: 0, has_more: false }
    }

    /// Returns whether this row is shown.
    fn takes_row(&mut self) -> bool {
        self.has_more = self.limit > 0 && self.rows == self.limit;
        self.rows += u64::from(!self.has_more);
        !self.has_more
    }
}

/// Prints a line a row. Returns whether there are more rows.
fn lines(db: &RemoteDatabase, options: &QueryOptions) -> Result<bool> {
    let mut count = Count::new(options.limit);
    let mut twice = None;
    let each = |columns: &[String], values: &[ValueRef<'_>]| {
        if !count.takes_row() {
            return ControlFlow::Break(());
        }
        if count.rows == 1 {
            twice = named_twice(columns);
        }
        if twice.is_none() && show::print_to_reader(&line(columns, values)) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    };
    db.query(&options.sql, each).map_err(unanswered)?;
    match twice {
        None => Ok(count.has_more),
        Some(name) => Err(Failure::new(
            Exit::Usage,
            format!("two columns have the name {name:?}, and an object of JSON has it once"),
            "name one of them with AS",
        )
        .into()),
    }
}

fn named_twice(columns: &[String]) -> Option<String> {
    let is_twice = |(i, name): &(usize, &String)| columns[..*i].contains(name);
    columns.iter().enumerate().find(is_twice).map(|(_, name)| name.clone())
}

/// An object in the order of the columns.
fn line(columns: &[String], values: &[ValueRef<'_>]) -> String {
    let members = columns.iter().zip(values);
    let members: Vec<_> =
        members.map(|(name, value)| format!("{}:{}", json!(name), in_json(*value))).collect();
    format!("{{{}}}\n", members.join(","))
}

/// What JSON has no value for is an object with the kind of the value.
fn in_json(value: ValueRef<'_>) -> serde_json::Value {
    match value {
        ValueRef::Null => json!(null),
        ValueRef::Integer(i) => json!(i),
        ValueRef::Real(r) if r.is_finite() => json!(r),
        ValueRef::Real(r) => json!({ "real": r.to_string() }),
        ValueRef::Text(t) => match std::str::from_utf8(t) {
            Ok(text) => json!(text),
            Err(_) => json!({ "text": HEXLOWER.encode(t) }),
        },
        ValueRef::Blob(b) => json!({ "blob": HEXLOWER.encode(b) }),
    }
}

/// Prints tables. Returns whether there are more rows.
fn tables(db: &RemoteDatabase, options: &QueryOptions) -> Result<bool> {
    let mut count = Count::new(options.limit);
    let mut bytes = 0;
    let mut rows: Vec<Vec<String>> = Vec::new();
    let each = |columns: &[String], values: &[ValueRef<'_>]| {
        if !count.takes_row() {
            return ControlFlow::Break(());
        }
        let row: Vec<_> = values.iter().map(|value| cell(*value)).collect();
        bytes += row.iter().map(String::len).sum::<usize>();
        rows.push(row);
        if rows.len() < TABLE_ROWS && bytes < TABLE_BYTES {
            return ControlFlow::Continue(());
        }
        bytes = 0;
        let full = formatted(columns, std::mem::take(&mut rows));
        if show::print_to_reader(&full) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    };
    let columns = db.query(&options.sql, each).map_err(unanswered);
    match columns {
        Ok(columns) if !rows.is_empty() || count.rows == 0 => {
            show::print(&formatted(&columns, rows));
        }
        Ok(_) => {}
        Err(failure) => return Err(failure.into()),
    }
    Ok(count.has_more)
}

fn formatted(columns: &[String], rows: Vec<Vec<String>>) -> String {
    let header: Vec<_> = columns.iter().map(String::as_str).collect();
    table::table(&header, header.len(), rows)
}

/// Text as it is, the rest as SQL writes it. No value can control a terminal.
fn cell(value: ValueRef<'_>) -> String {
    let text = match value {
        ValueRef::Text(t) => std::str::from_utf8(t).ok().map(str::to_owned),
        _ => None,
    };
    let text = text.unwrap_or_else(|| literal(&Value::from(value)));
    if !text.contains(char::is_control) {
        return text;
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { escaped.extend(c.escape_debug()) } else { escaped.push(c) }
    }
    escaped
}

/// Reports why a statement has no rows, or not all.
fn unanswered(error: QueryError) -> Failure {
    let exit = match &error {
        QueryError::Sql(cause) => match cause.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Exit::Database,
            _ => Exit::Usage,
        },
        QueryError::NotRead | QueryError::Several => Exit::Usage,
        QueryError::Open(_) | QueryError::Stopped | QueryError::Snapshot(_) => Exit::General,
    };
    match error {
        QueryError::Snapshot(error) => failed(error),
        error => Failure::new(exit, error.to_string(), error.hint()),
    }
}
