//! The report as one page: no scripts, nothing from the network, dark and light, readable on a
//! phone.

use crate::plot;
use crate::report::{Figure, Floor, Report, digits};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::Path;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2430; --paper: #fff; --soft: #6b7585; --line: #d9dee6;
  --bar: #2f6fde; --bad: #c2341d; --good: #1d7f4b }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --paper: #14181f; --soft: #97a1b0;
  --line: #323a47; --bar: #6ea1ff; --bad: #ff8a73; --good: #67cf98 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 56rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line) }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
th { font-weight: 600 } .soft { color: var(--soft) }
.bad { color: var(--bad); font-weight: 600 } .good { color: var(--good) }
figure { margin: 1rem 0 } figcaption { color: var(--soft); font-size: .9rem }
svg { width: 100%; height: auto; display: block } svg text { fill: var(--soft); font-size: 11px }
svg rect { fill: var(--bar) } svg line { stroke: var(--line) }
pre { overflow-x: auto; border: 1px solid var(--line); padding: .5rem }
";

/// Writes the page.
pub(crate) fn write(report: &Report, path: &Path) -> Result<()> {
    std::fs::write(path, page(report)).with_context(|| format!("cannot write {}", path.display()))
}

fn page(report: &Report) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>harmonylite bench</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>harmonylite bench</h1>\n"
    );
    html += &verdict(report);
    let lines = report.machine.lines();
    let lines =
        lines.iter().map(|(name, value)| format!("<tr>{}{}</tr>\n", head(name), cell(value)));
    html += &format!("<table>\n{}</table>\n", lines.collect::<String>());
    if !report.settings.is_empty() {
        let settings = escaped(&report.settings);
        html += &format!("<h2>Settings beyond the defaults</h2>\n<pre>{settings}</pre>\n");
    }
    if !report.trials.is_empty() {
        html += &trials(report);
    }
    let mut groups: Vec<&str> = report.measured.iter().map(|m| m.group.as_str()).collect();
    groups.dedup();
    for group in groups {
        html += &section(report, group);
    }
    html + "</body>\n</html>\n"
}

fn verdict(report: &Report) -> String {
    let mut html = String::new();
    for what in &report.failures {
        let _ = writeln!(html, "<p class=\"bad\">Failed: {}</p>", escaped(what));
    }
    if report.debug_build {
        html += "<p class=\"bad\">This is a debug build: the numbers say little.</p>\n";
    }
    if report.quick {
        html += "<p class=\"soft\">A quick run: less exact.</p>\n";
    }
    html
}

fn section(report: &Report, group: &str) -> String {
    let figures: Vec<&Figure> = report.measured.iter().filter(|m| m.group == group).collect();
    let mut html = format!("<h2>{}</h2>\n<div class=\"scroll\"><table>\n", escaped(group));
    for figure in &figures {
        html += &row(figure);
    }
    html += "</table></div>\n";
    let cpu: Vec<(&str, f64)> = figures
        .iter()
        .filter_map(|m| Some((m.name.strip_prefix("CPU a row: ")?, m.value)))
        .collect();
    if !cpu.is_empty() {
        html += &plot::figure("CPU a row, microseconds", &plot::bars(&cpu));
    }
    for histogram in report.histograms.iter().filter(|h| h.group == group) {
        let caption = format!("{}: how often which time (ms)", histogram.name);
        html += &plot::figure(&caption, &plot::histogram(&histogram.buckets));
    }
    html
}

fn row(figure: &Figure) -> String {
    let mut html = format!(
        "<tr>{}<td class=\"n\">{}</td>{}",
        head(&figure.name),
        digits(figure.value),
        cell(&figure.unit)
    );
    if figure.floor != Floor::None {
        let [floor, verdict] = figure.verdict();
        let class = if figure.passed { "good" } else { "bad" };
        let _ = write!(html, "{}<td class=\"{class}\">{verdict}</td>", cell(&floor));
    }
    html + "</tr>\n"
}

fn trials(report: &Report) -> String {
    let advice = report.advice.iter().map(|line| format!("<p>{}</p>\n", escaped(line)));
    let mut html = format!("<h2>Settings that were tried</h2>\n{}", advice.collect::<String>());
    html += "<div class=\"scroll\"><table>\n<tr>\
        <th>setting</th><th>measure</th><th>to the defaults</th><th>noise</th><th>better in</th>\
        <th></th></tr>\n";
    for t in &report.trials {
        let _ = writeln!(
            html,
            "<tr>{}{}<td class=\"n\">{:.2}</td><td class=\"n\">{:.2}</td>\
             <td class=\"n\">{} of {}</td>{}</tr>",
            cell(&t.setting),
            cell(&t.measure),
            t.ratio,
            t.noise,
            t.better,
            t.rounds,
            cell(&t.verdict)
        );
    }
    html + "</table></div>\n"
}

fn head(text: &str) -> String {
    format!("<th>{}</th>", escaped(text.trim()))
}

fn cell(text: &str) -> String {
    format!("<td>{}</td>", escaped(text))
}

/// Returns a text that means itself in HTML.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::sample::Samples;

    #[test]
    fn the_page_names_each_figure_and_loads_nothing() {
        let mut report = Report::new(Machine::default(), false, true, 1);
        report.group("a <group> & more");
        let times = Samples::new(vec![1_000_000, 2_000_000, 40_000_000]);
        report.add_times("commit", &times, [Floor::None; 2]);
        report.add("CPU a row: broker", 0.5, "us", Floor::None);
        report.fail("nodes differ".to_owned());
        let html = page(&report);
        for part in ["a &lt;group&gt; &amp; more", "commit, p99.9", "40.0", "Failed", "<svg"] {
            assert!(html.contains(part), "{part} is missing in {html}");
        }
        for part in ["<script", "http://", "https://", "<link", "<img", "NaN"] {
            assert!(!html.contains(part), "{part}");
        }
    }
}
