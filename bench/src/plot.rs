//! Plots as inline SVG. Colours come from the page's style.

use crate::html::escaped;
use crate::report::digits;
use crate::sample::Bucket;
use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 150.0;
/// The room below the bars, for the axis.
const AXIS: f64 = 18.0;
const BAR: f64 = 22.0;
/// The room for names beside horizontal bars.
const NAMES: f64 = 190.0;

/// Returns a plot with its caption.
pub(crate) fn figure(caption: &str, svg: &str) -> String {
    format!("<figure>{svg}<figcaption>{}</figcaption></figure>\n", escaped(caption))
}

/// Returns horizontal bars with their names and values.
pub(crate) fn bars(values: &[(&str, f64)]) -> String {
    let most = values.iter().map(|(_, v)| *v).fold(f64::MIN_POSITIVE, f64::max);
    let height = BAR * values.len() as f64;
    let mut svg = begin(height);
    for (at, (name, value)) in values.iter().enumerate() {
        let (y, long) = (BAR * at as f64, (WIDTH - NAMES - 70.0) * value.max(0.0) / most);
        let text = y + BAR * 0.65;
        let _ = write!(
            svg,
            "<text x=\"0\" y=\"{text:.1}\">{}</text>\
             <rect x=\"{NAMES}\" y=\"{:.1}\" width=\"{long:.1}\" height=\"{:.1}\"/>\
             <text x=\"{:.1}\" y=\"{text:.1}\">{}</text>",
            escaped(name),
            y + 3.0,
            BAR - 6.0,
            NAMES + long + 6.0,
            digits(*value)
        );
    }
    svg + "</svg>"
}

/// Returns upright bars over a logarithmic axis of time.
pub(crate) fn histogram(buckets: &[Bucket]) -> String {
    let most = buckets.iter().map(|b| b.count).max().unwrap_or(0).max(1) as f64;
    let step = WIDTH / buckets.len().max(1) as f64;
    let mut svg = begin(HEIGHT + AXIS);
    let _ = write!(svg, "<line x1=\"0\" y1=\"{HEIGHT}\" x2=\"{WIDTH}\" y2=\"{HEIGHT}\"/>");
    // No more labels than there is room for.
    let label_every = (48.0 / step).ceil().max(1.0) as usize;
    for (at, bucket) in buckets.iter().enumerate() {
        let (x, tall) = (step * at as f64, (HEIGHT - 8.0) * bucket.count as f64 / most);
        let _ = write!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\">\
             <title>{} up to {} ms</title></rect>",
            HEIGHT - tall,
            (step - 1.0).max(0.5),
            bucket.count,
            digits(bucket.up_to_ms)
        );
        if at % label_every == 0 {
            let label = digits(bucket.up_to_ms);
            let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\">{label}</text>", HEIGHT + 14.0);
        }
    }
    svg + "</svg>"
}

fn begin(height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tallest_bar_fills_the_height() {
        let bucket = |count| Bucket { up_to_ms: 1.0, count };
        let svg = histogram(&[bucket(1), bucket(4)]);
        assert!(svg.contains("height=\"142.0\"") && svg.contains("height=\"35.5\""), "{svg}");
        assert!(histogram(&[]).ends_with("</svg>"));
    }

    #[test]
    fn bars_stay_inside() {
        let svg = bars(&[("a", 1.0), ("b", f64::NAN), ("c", 0.0)]);
        assert!(svg.contains("width=\"380.0\"") && !svg.contains("width=\"NaN\""), "{svg}");
    }
}
