//! Rates beside their yardsticks, as a picture: one bar each, self-contained SVG for light and dark.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// One bar.
pub(crate) struct Bar {
    /// What was measured.
    pub(crate) label: String,
    /// How many times the yardstick's rate.
    pub(crate) ratio: f64,
}

impl Bar {
    /// As it is kept beside the raw figures.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "label": self.label, "ratio": self.ratio })
    }

    /// What [`to_json`](Self::to_json) has made; `None` of anything else.
    pub(crate) fn from_json(kept: &Value) -> Option<Self> {
        Some(Bar { label: kept["label"].as_str()?.to_owned(), ratio: kept["ratio"].as_f64()? })
    }
}

const WIDTH: f64 = 760.0;
/// Where the bars begin, left of which are their labels.
const LEFT: f64 = 350.0;
const ROW: f64 = 28.0;
const BAR: f64 = 16.0;
/// Above the first row: the title, and the yardstick's name.
const TOP: f64 = 58.0;
/// For the number behind the longest bar.
const RIGHT: f64 = 56.0;
/// Between a bar, or the yardstick's line, and a number.
const GAP: f64 = 6.0;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}\
    .title{font-weight:600;font-size:15px}.label{text-anchor:end}.small{font-size:11px}\
    .bar{fill:#2f6f4f}.one{stroke:#8a5a00;stroke-width:1.5;stroke-dasharray:4 3}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.bar{fill:#5fb88a}.one{stroke:#e3b341}}";

/// The picture; `None` where there is nothing to show.
pub(crate) fn svg(title: &str, yardstick: &str, bars: &[Bar]) -> Option<String> {
    let most = bars.iter().map(|bar| bar.ratio).fold(1.0, f64::max);
    if bars.is_empty() || !most.is_finite() {
        return None;
    }
    let scale = (WIDTH - LEFT - RIGHT) / most;
    let height = TOP + ROW * bars.len() as f64 + 12.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n\
         <text class=\"title\" x=\"12\" y=\"24\">{title}</text>\n"
    );
    let one = LEFT + scale;
    for (index, bar) in bars.iter().enumerate() {
        let top = TOP + ROW * index as f64;
        let (width, base) = (bar.ratio * scale, top + BAR - 3.0);
        let end = LEFT + width;
        // A number that the yardstick's line would cross stands behind that.
        let number = if end < one && end + RIGHT > one { one } else { end } + GAP;
        let _ = writeln!(
            svg,
            "<text class=\"label\" x=\"{}\" y=\"{base}\">{}</text>\
             <rect class=\"bar\" x=\"{LEFT}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/>\
             <text x=\"{number:.1}\" y=\"{base}\">{:.2} ×</text>",
            LEFT - 10.0,
            escaped(&bar.label),
            bar.ratio
        );
    }
    let _ = writeln!(
        svg,
        "<line class=\"one\" x1=\"{one:.1}\" x2=\"{one:.1}\" y1=\"{}\" y2=\"{}\"/>\
         <text class=\"small\" x=\"{one:.1}\" y=\"{}\" text-anchor=\"middle\">{yardstick}</text>\n</svg>",
        TOP - 6.0,
        height - 10.0,
        TOP - 11.0
    );
    Some(svg)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_and_its_number_fit() {
        let bars = [("a < b", 0.5), ("c", 4.0)]
            .map(|(label, ratio)| Bar { label: label.to_owned(), ratio });
        let svg = svg("Rates", "yardstick", &bars).unwrap();
        assert!(svg.contains("a &lt; b"), "{svg}");
        let longest = format!("width=\"{:.1}\"", WIDTH - LEFT - RIGHT);
        assert!(svg.contains(&longest), "{svg}");
        assert!(super::svg("Rates", "yardstick", &[]).is_none());
    }

    #[test]
    fn the_yardsticks_line_crosses_no_number() {
        let bars = [0.5, 0.9, 1.0].map(|ratio| Bar { label: String::new(), ratio });
        let svg = svg("Rates", "yardstick", &bars).unwrap();
        let scale = WIDTH - LEFT - RIGHT;
        for (number, at) in [("0.50", 0.5), ("0.90", 1.0), ("1.00", 1.0)] {
            let expected = format!("<text x=\"{:.1}\"", LEFT + at * scale + GAP);
            let line = svg.lines().find(|line| line.contains(number)).unwrap();
            assert!(line.contains(&expected), "{expected}: {line}");
        }
    }

    #[test]
    fn a_bar_that_was_kept_is_the_same() {
        let kept = Bar { label: "a < b".to_owned(), ratio: 0.5 }.to_json();
        let bar = Bar::from_json(&kept).unwrap();
        assert_eq!((bar.label.as_str(), bar.ratio), ("a < b", 0.5));
        assert!(Bar::from_json(&json!({ "label": "no ratio" })).is_none());
    }
}
