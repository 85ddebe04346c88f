//! Measures how the cost of a row changes as a table grows.

use super::flow::Before;
use super::{arrived, in_transactions, insert, insert_document, insert_longer};
use super::{insert_timed_document, rate};
use crate::Parts;
use crate::cluster::{Cluster, Plan};
use crate::database::open;
use crate::options::{Measurement, Options};
use crate::report::{Floor, Report};
use crate::time::{check, now};
use crate::usage::own_cpu_ns;
use anyhow::Result;
use rusqlite::Connection;
use std::ops::Range;

/// Rows between two waits: so many are in the streams and in the log at most.
const PIECE: i64 = 100_000;
/// The smallest table of the series.
const FIRST: i64 = 10_000;
/// The size that larger ones are compared with.
const COMPARED: i64 = 100_000;
/// The ids of the rows that are looked for, after those of the series.
const LAST_FROM: i64 = 1_000_000_000;

type Insert = fn(&Connection, i64) -> Result<()>;

/// Fills a table with as many rows as the options say, in transactions of 1,000, with one kind of
/// key, and shows what a row costs at 10,000, 100,000, a million ... rows.
pub(crate) fn measure(
    parts: &Parts,
    report: &mut Report,
    kind: Measurement,
    options: &Options,
) -> Result<()> {
    let (name, insert): (_, Insert) = match kind {
        Measurement::SeriesUuid => ("UUID keys in a growing table", insert_document),
        Measurement::SeriesUuid7 => {
            ("UUID keys that begin with the time, in a growing table", insert_timed_document)
        }
        _ => ("integer keys in a growing table", insert_longer),
    };
    report.group(name);
    let rows = i64::try_from(options.scale(options.rows, 20_000))?;
    let dir = tempfile::Builder::new().prefix("harmonylite-bench-").tempdir()?;
    let plain = open(&dir.path().join("without.db"))?;
    plain.execute_batch(super::SCHEMA)?;
    let pair = Cluster::start(parts, &Plan::default())?;
    let mut series = Series { pair, plain, insert, compared: None };
    for piece in pieces(rows) {
        check()?;
        series.piece(report, piece.clone(), is_shown(piece.end, rows))?;
    }
    series.pair.settle()
}

struct Series<'a> {
    pair: Cluster<'a>,
    /// The same rows without us.
    plain: Connection,
    insert: Insert,
    /// The rate at which rows arrived in the table that others are compared with.
    compared: Option<f64>,
}

impl Series<'_> {
    fn piece(&mut self, report: &mut Report, rows: Range<i64>, is_shown: bool) -> Result<()> {
        let (count, size) = (rows.end - rows.start, rows.end);
        let begin_ns = own_cpu_ns();
        in_transactions(&mut self.plain, rows.clone(), self.insert)?;
        let alone_ns = own_cpu_ns().zip(begin_ns).map(|(end, begin)| end - begin);
        let (mut app, peer) = (self.pair.open(0)?, self.pair.open(1)?);
        let before = Before::look(&self.pair);
        let began = now();
        in_transactions(&mut app, rows, self.insert)?;
        insert(&app, LAST_FROM + size)?;
        let application_ns = before.application();
        arrived(&self.pair, &peer, LAST_FROM + size)?;
        let arrived = rate(count, began);
        self.pair.published()?;
        let costs = before.costs(&self.pair, count, application_ns);
        if !is_shown {
            return Ok(());
        }
        let when = format!("to {size} rows: ");
        report.add(&format!("{when}rows arrived"), arrived, "rows/s", Floor::None);
        if let Some(alone_ns) = alone_ns {
            let us = alone_ns as f64 / 1e3 / count as f64;
            report.add(&format!("{when}CPU a row: SQLite alone"), us, "us", Floor::None);
        }
        if let Some(costs) = costs {
            costs.add(report, &when, [Floor::None; 2]);
        }
        if size == COMPARED {
            self.compared = Some(arrived);
        } else if let Some(compared) = self.compared {
            let name = format!("{when}rate, to that at {COMPARED} rows");
            report.add(&name, arrived / compared, "times", Floor::None);
        }
        Ok(())
    }
}

/// Returns the rows of each piece: up to 10,000, up to 100,000, and then 100,000 each.
fn pieces(rows: i64) -> Vec<Range<i64>> {
    let (mut pieces, mut at) = (Vec::new(), 0);
    while at < rows {
        let next = if at == 0 { FIRST } else { (at / PIECE + 1) * PIECE };
        pieces.push(at..next.min(rows));
        at = next;
    }
    pieces
}

/// Returns whether the cost in a table of this size is shown: at the powers of ten, at halves of
/// them, and at the end.
fn is_shown(size: i64, rows: i64) -> bool {
    let mut power = FIRST;
    while power * 10 <= size {
        power *= 10;
    }
    size == power || size == power * 5 || size == rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_has_all_rows_and_shows_the_powers_of_ten() {
        let of = pieces(350_000);
        let ends: Vec<_> = of.iter().map(|piece| piece.end).collect();
        assert_eq!(ends, [10_000, 100_000, 200_000, 300_000, 350_000]);
        assert!(of.windows(2).all(|two| two[0].end == two[1].start));
        assert_eq!(pieces(5_000).first(), Some(&(0..5_000)));
        let shown = |rows| -> Vec<i64> {
            pieces(rows).iter().map(|p| p.end).filter(|end| is_shown(*end, rows)).collect()
        };
        assert_eq!(shown(350_000), [10_000, 100_000, 350_000]);
        assert_eq!(shown(1_000_000), [10_000, 100_000, 500_000, 1_000_000]);
    }
}
