//! Shows the progress: a table that is redrawn in place on a terminal, otherwise one line a second.

use super::super::show;
use super::super::table::table;
use super::observe::Look;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt::Write as _;

const PLAIN_EVERY_MS: u64 = 1_000;
/// The length of the bar.
const STEPS: u64 = 1_000;
const TEMPLATE: &str = "\n[{bar:24}] {msg}";
const HEADER: [&str; 8] =
    ["node", "state", "rows", "out/s", "in/s", "lag ms", "pending", "conflicts"];

/// One node's line.
pub(super) struct Line {
    pub(super) id: u64,
    /// `replicating`, `cut off`, `killed`...
    pub(super) state: &'static str,
    pub(super) look: Look,
    /// Rows per second that its application writes, and that it receives.
    pub(super) rates: (u64, u64),
}

/// The contents of the screen at one moment.
pub(super) struct Frame {
    pub(super) elapsed_ms: u64,
    /// The progress of the demo, 0 to 1.
    pub(super) progress: f64,
    pub(super) phase: String,
    pub(super) lines: Vec<Line>,
}

/// The output of the demo.
pub(super) struct Screen {
    /// Hidden if stdout is no terminal.
    bar: ProgressBar,
    next_plain_ms: u64,
}

impl Screen {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::stdout());
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("#."));
        }
        Self { bar, next_plain_ms: 0 }
    }

    /// Shows a frame: always on a terminal, once a second otherwise.
    pub(super) fn show(&mut self, frame: &Frame) {
        if !self.bar.is_hidden() {
            self.bar.set_position((frame.progress.clamp(0.0, 1.0) * STEPS as f64) as u64);
            self.bar.set_message(format!("{}\n{}", frame.phase, nodes(frame).trim_end()));
        } else if frame.elapsed_ms >= self.next_plain_ms {
            self.next_plain_ms = frame.elapsed_ms + PLAIN_EVERY_MS;
            show::print(&plain(frame));
        }
    }

    /// Prints a line that stays; on a terminal the table continues below it.
    pub(super) fn say(&mut self, text: &str) {
        self.bar.suspend(|| show::print(&format!("{text}\n")));
    }

    /// Removes the table.
    pub(super) fn end(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The table with a line a node.
fn nodes(frame: &Frame) -> String {
    let row = |line: &Line| {
        let cells = Cells::new(line);
        vec![
            line.id.to_string(),
            line.state.to_owned(),
            line.look.rows.to_string(),
            line.rates.0.to_string(),
            line.rates.1.to_string(),
            cells.lag,
            cells.pending,
            cells.conflicts,
        ]
    };
    table(&HEADER, 2, frame.lines.iter().map(row).collect())
}

fn plain(frame: &Frame) -> String {
    let seconds = frame.elapsed_ms as f64 / 1_000.0;
    let mut out = format!("{seconds:5.1} s  {}", frame.phase);
    for line in &frame.lines {
        let cells = Cells::new(line);
        let _ = write!(
            out,
            " | {} {}: {} rows, +{}/s, lag {} ms, pending {}, conflicts {}",
            line.id,
            line.state,
            line.look.rows,
            line.rates.0 + line.rates.1,
            cells.lag,
            cells.pending,
            cells.conflicts
        );
    }
    out + "\n"
}

/// The columns that need an answer from the node.
struct Cells {
    lag: String,
    pending: String,
    conflicts: String,
}

impl Cells {
    fn new(line: &Line) -> Self {
        let Some(status) = &line.look.status else {
            return Self {
                lag: "-".to_owned(),
                pending: "-".to_owned(),
                conflicts: "-".to_owned(),
            };
        };
        // The lag behind the newest known message or, without a lag, the time of the last batches
        // from the broker into the database.
        let behind = status.lag_ms().unwrap_or(0);
        let lag = match (status.broker.linked, behind) {
            (false, _) => "-".to_owned(),
            (true, 0) => format!("{:.1}", status.wake.published_to_applied_us.0 as f64 / 1_000.0),
            (true, ms) => ms.to_string(),
        };
        Self {
            lag,
            pending: status.pending_rows.to_string(),
            conflicts: status.conflicts.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::status::{BrokerStatus, Status, StreamStatus};

    #[test]
    fn a_frame_tells_of_each_node() {
        let status = Status {
            pending_rows: 7,
            conflicts: 3,
            broker: BrokerStatus { linked: true, ..Default::default() },
            streams: vec![StreamStatus { lag_ms: Some(21), ..Default::default() }],
            ..Default::default()
        };
        let lines = vec![
            Line {
                id: 1,
                state: "replicating",
                look: Look { status: Some(status), rows: 500, number: 1 },
                rates: (10, 20),
            },
            Line { id: 2, state: "killed", look: Look::default(), rates: (0, 0) },
        ];
        let frame =
            Frame { elapsed_ms: 1_500, progress: 0.5, phase: "all write".to_owned(), lines };
        assert_eq!(
            plain(&frame),
            "  1.5 s  all write | 1 replicating: 500 rows, +30/s, lag 21 ms, pending 7, conflicts \
            3 | 2 killed: 0 rows, +0/s, lag - ms, pending -, conflicts -\n"
        );
        assert_eq!(
            nodes(&frame),
            "node  state        rows  out/s  in/s  lag ms  pending  conflicts\n\
            1     replicating   500     10    20      21        7          3\n\
            2     killed          0      0     0       -        -          -\n"
        );
    }
}
