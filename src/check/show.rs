//! The list for people and for programs.

use serde::Serialize;

use super::finding::{Finding, Status, Summary};
use crate::config::Style;

/// The list for people: a finding a line, what mends it below, and the count at the end.
pub fn text(findings: &[Finding], style: Style) -> String {
    let mut out = String::new();
    let mut group = None;
    for finding in findings {
        if group != Some(finding.group) {
            if group.is_some() {
                out.push('\n');
            }
            group = Some(finding.group);
            out.push_str(&format!("{}\n", paint(finding.group.title(), BOLD, style)));
        }
        let (mark, colour) = match finding.status {
            Status::Ok => ("✓", GREEN),
            Status::Note => ("○", BLUE),
            Status::Warning => ("!", YELLOW),
            Status::Failed => ("✗", RED),
        };
        let mark = paint(mark, colour, style);
        let (subject, message) = (printable(&finding.subject), printable(&finding.message));
        out.push_str(&format!("{mark} {subject}: {message}\n"));
        for (at, line) in finding.hint.iter().flat_map(|hint| hint.lines()).enumerate() {
            let arrow = if at == 0 { "→" } else { " " };
            out.push_str(&format!("  {} {}\n", paint(arrow, colour, style), printable(line)));
        }
    }
    let Summary { ok, warning, failed } = Summary::of(findings);
    let warnings =
        if warning == 1 { "1 warning".to_owned() } else { format!("{warning} warnings") };
    out.push_str(&format!("\n{ok} ok, {warnings}, {failed} failed\n"));
    out
}

/// The list for programs: one object with `findings` and `summary`.
pub fn json(findings: &[Finding]) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Report<'a> {
        findings: &'a [Finding],
        summary: Summary,
    }
    let summary = Summary::of(findings);
    Ok(serde_json::to_string_pretty(&Report { findings, summary })? + "\n")
}

const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BLUE: &str = "34";

fn paint(text: &str, code: &str, style: Style) -> String {
    match style {
        Style::Plain => text.to_owned(),
        Style::Colour => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
    }
}

/// Names come from the database and the file: none may command the terminal.
fn printable(text: &str) -> String {
    let shown = |char: char| match char.is_control() {
        true => char.escape_default().to_string(),
        false => char.to_string(),
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Group;

    fn finding(status: Status, subject: &str, hint: Option<&str>) -> Finding {
        Finding {
            group: if status == Status::Ok { Group::Configuration } else { Group::Tables },
            status,
            subject: subject.to_owned(),
            message: "says".to_owned(),
            hint: hint.map(str::to_owned),
        }
    }

    #[test]
    fn hints_stand_indented_below_their_finding() {
        let findings = [
            finding(Status::Ok, "a", None),
            finding(Status::Note, "n", Some("or this")),
            finding(Status::Warning, "b", Some("do this;\nthen that;")),
            finding(Status::Failed, "c\u{1b}[2J\n", None),
        ];
        assert_eq!(
            text(&findings, Style::Plain),
            "Configuration\n✓ a: says\n\nTables\n○ n: says\n  → or this\n! b: says\n  → do this;\n    then that;\n\
             ✗ c\\u{1b}[2J\\n: says\n\n1 ok, 1 warning, 1 failed\n"
        );
        let coloured = text(&findings, Style::Colour);
        assert!(coloured.contains("\u{1b}[31m✗\u{1b}[0m c"), "{coloured:?}");
    }
}
