//! Lays out text for people: within the width of a terminal, and as long lines in a pipe.
//!
//! Only a terminal gets bold and colour, and not if `NO_COLOR` is set.

use comfy_table::presets::NOTHING;
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, Width,
};

/// The least width of the labels of [`Facts`], with the space that follows.
const LABEL: u16 = 13;
/// A narrower terminal gets long lines too.
const TERMINAL_MIN: u16 = 40;
/// A narrower terminal gets one space between columns, a wider one two.
const TERMINAL_WIDE: u16 = 80;

/// Formats rows of cells in aligned columns. Those from `numbers` on are aligned to the right.
pub(crate) fn table(header: &[&str], numbers: usize, rows: Vec<Vec<String>>) -> String {
    let mut table = borderless();
    table.set_header(header.iter().map(|name| label(name, None)));
    table.add_rows(rows);
    let gap = if table.width().is_some_and(|width| width < TERMINAL_WIDE) { 1 } else { 2 };
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if i + 1 < header.len() { gap } else { 0 }));
        if i >= numbers {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    text(&table)
}

/// Formats a paragraph.
pub(crate) fn paragraph(content: &str, indent: u16) -> String {
    let mut table = borderless();
    table.add_row([content]);
    if let Some(column) = table.column_mut(0) {
        column.set_padding((indent, 0));
    }
    text(&table)
}

/// Lines of a label and a text in its column.
pub(crate) struct Facts(Table);

impl Facts {
    /// Starts without lines.
    pub(crate) fn new() -> Self {
        Self(borderless())
    }

    /// Adds a line.
    pub(crate) fn line(&mut self, name: &str, content: &str) {
        self.0.add_row([label(name, None), Cell::new(content)]);
    }

    /// Adds a line that reports something wrong.
    pub(crate) fn alarm(&mut self, name: &str, content: &str) {
        self.0.add_row([label(name, Some(Color::Red)), Cell::new(content)]);
    }

    /// Formats all lines.
    pub(crate) fn text(mut self) -> String {
        for column in self.0.column_iter_mut() {
            column.set_padding((0, 0));
        }
        if let Some(labels) = self.0.column_mut(0) {
            labels.set_padding((0, 1));
            labels.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(LABEL)));
        }
        text(&self.0)
    }
}

fn borderless() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).style_text_only();
    // Tests expect the long lines, also of a developer who runs them in a terminal.
    if cfg!(test) {
        table.force_no_tty();
    }
    if table.width().is_some_and(|width| width >= TERMINAL_MIN) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

fn label(name: &str, color: Option<Color>) -> Cell {
    let cell = Cell::new(name);
    if !console::colors_enabled() {
        return cell;
    }
    let cell = cell.add_attribute(Attribute::Bold);
    color.into_iter().fold(cell, Cell::fg)
}

fn text(table: &Table) -> String {
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "1"], ["longer", "22"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            table(&["name", "count"], 2, rows.to_vec()),
            "name    count\na       1\nlonger  22\n"
        );
        assert_eq!(
            table(&["name", "count"], 1, rows.to_vec()),
            "name    count\na           1\nlonger     22\n"
        );
    }

    #[test]
    fn facts_stay_on_one_line_without_a_terminal() {
        let long = "word ".repeat(100);
        let mut facts = Facts::new();
        facts.line("node", "7");
        facts.alarm("DEGRADED", &long);
        assert_eq!(facts.text(), format!("node         7\nDEGRADED     {}\n", long.trim_end()));
        assert_eq!(paragraph(&long, 2), format!("  {}\n", long.trim_end()));
    }

    #[test]
    fn lines_fit_a_terminal() {
        let mut facts = Facts::new();
        facts.line("held", "column x is missing on this node, so the changes wait");
        facts.0.set_width(40).set_content_arrangement(ContentArrangement::Dynamic);
        assert_eq!(
            facts.text(),
            "held         column x is missing on this\n             node, so the changes wait\n"
        );
    }
}
