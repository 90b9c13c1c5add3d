//! Results: a Markdown table for people, raw figures for whoever wants to reckon.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bed::Plugin;
use crate::plot::{self, Bar};
use crate::scenarios::{Plugins, SCENARIOS, Scenario};

/// What one scenario has found.
pub(crate) struct Section {
    /// What was measured, in a sentence or two.
    about: String,
    rows: Vec<Row>,
    bars: Vec<Bar>,
    /// Every single figure.
    pub(crate) raw: Value,
}

struct Row {
    measure: String,
    result: String,
    target: String,
}

/// A bound that a figure should keep.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Section {
    /// A section without rows yet.
    pub(crate) fn new(about: String, raw: Value) -> Self {
        Section { about, rows: Vec::new(), bars: Vec::new(), raw }
    }

    /// Adds a figure.
    pub(crate) fn row(&mut self, measure: impl Into<String>, result: impl Into<String>) {
        let (measure, result) = (measure.into(), result.into());
        self.rows.push(Row { measure, result, target: String::new() });
    }

    /// Adds a rate to the picture, as so many times the rate of pg_recvlogical.
    pub(crate) fn bar(&mut self, label: impl Into<String>, ratio: f64) {
        self.bars.push(Bar { label: label.into(), ratio });
    }

    /// Adds a figure that has a target.
    pub(crate) fn judged(
        &mut self,
        measure: impl Into<String>,
        figure: f64,
        unit: &str,
        target: Target,
    ) {
        let (sign, bound, is_met) = match target {
            Target::AtLeast(bound) => ("≥", bound, figure >= bound),
            Target::AtMost(bound) => ("≤", bound, figure <= bound),
        };
        let mark = if is_met { "✓" } else { "✗" };
        self.rows.push(Row {
            measure: measure.into(),
            result: format!("**{figure:.2}{unit}**"),
            target: format!("{sign} {bound}{unit} {mark}"),
        });
    }
}

/// All results so far.
pub(crate) struct Report {
    dir: PathBuf,
    text: String,
}

impl Report {
    /// Begins with what has to be known about the machine.
    pub(crate) fn begin() -> Result<Self> {
        let dir = directory()?;
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let cores = std::thread::available_parallelism()?;
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_whitespace().next().unwrap_or("unknown").to_owned();
        let redis = version(Command::new("redis-server").arg("--version"));
        let client = version(Command::new("pg_recvlogical").arg("--version"));
        let text = format!(
            "# Measured\n\n\
             {cores} processors, load {load} before the start; {client}; {redis}.\n\
             Private servers; Postgres without fsync and autovacuum, Redis without persistence.\n"
        );
        Ok(Report { dir, text })
    }

    /// Adds a scenario's results, and keeps its raw figures.
    pub(crate) fn add(&mut self, scenario: &Scenario, section: Section) -> Result<()> {
        let bars: Vec<_> = section.bars.iter().map(Bar::to_json).collect();
        let raw = json!({ "scenario": scenario.name, "results": section.raw, "bars": bars });
        let plugin = match scenario.plugins {
            Plugins::Asked => Plugin::asked()?,
            Plugins::Fixed => Plugin::Wal2json,
        };
        let file = self.dir.join(file_name(scenario, plugin));
        std::fs::write(&file, serde_json::to_string_pretty(&raw)? + "\n")?;

        let about = &section.about;
        write!(self.text, "\n## {}\n\n{about}\n\n", scenario.title)?;
        self.text.push_str("| measure | result | target |\n|---|---:|---:|\n");
        for Row { measure, result, target } in &section.rows {
            writeln!(self.text, "| {measure} | {result} | {target} |")?;
        }
        Ok(())
    }

    /// Prints everything, and writes it beside the raw figures.
    pub(crate) fn finish(self) -> Result<()> {
        print!("{}", self.text);
        let file = self.dir.join("results.md");
        std::fs::write(&file, self.text).with_context(|| file.display().to_string())?;
        eprintln!("written to {}", file.display());
        let title = "Rows a second, beside a client that throws them away";
        if let Some(svg) = plot::svg(title, "pg_recvlogical", &bars(&self.dir)?) {
            std::fs::write(self.dir.join("rates.svg"), svg)?;
        }
        Ok(())
    }
}

/// Where a scenario's raw figures are. What one plugin has shown does not replace the other's.
fn file_name(scenario: &Scenario, plugin: Plugin) -> String {
    match plugin {
        Plugin::Wal2json => format!("{}.json", scenario.name),
        Plugin::Pgoutput => format!("{}-pgoutput.json", scenario.name),
    }
}

/// The bars of every scenario's last call, with each plugin. Ratios can stand side by side whatever
/// the hours of their calls, since each compares runs of one call.
fn bars(dir: &Path) -> Result<Vec<Bar>> {
    let mut bars = Vec::new();
    for scenario in SCENARIOS {
        for plugin in Plugin::BOTH {
            let file = dir.join(file_name(scenario, plugin));
            // Not every scenario has been called here.
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            let raw: Value =
                serde_json::from_str(&text).with_context(|| file.display().to_string())?;
            // Nor do all of them compare rates.
            bars.extend(raw["bars"].as_array().into_iter().flatten().filter_map(Bar::from_json));
        }
    }
    Ok(bars)
}

/// `target/bench`: results belong to a machine and an hour, not into the repository.
fn directory() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists());
    Ok(target.map_or_else(std::env::temp_dir, Path::to_owned).join("bench"))
}

/// The first words of what a program says about its version.
fn version(command: &mut Command) -> String {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output).into_owned();
    let words: Vec<_> = text.split_whitespace().take(3).collect();
    if words.is_empty() { format!("{name} of unknown version") } else { words.join(" ") }
}
