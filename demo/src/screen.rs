//! What a person sees: colours and pauses on a terminal, plain text elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::attribution::Effect;
use crate::interrupt::Interrupt;
use crate::watch::Kind;

/// How long to rest so that a person can follow.
const PAUSE: Duration = Duration::from_millis(450);

/// From how many like effects on only the first and the last ones are shown.
const GROUP_MIN: usize = 8;

/// How many of them, at either end.
const GROUP_SHOWN: usize = 2;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";

/// Standard output.
pub(crate) struct Screen {
    has_colour: bool,
    has_reader: bool,
}

/// A counter, and its value before and after.
pub(crate) type Moved = (String, (String, String));

impl Screen {
    pub(crate) fn new() -> Self {
        let has_reader = std::io::stdout().is_terminal();
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Screen { has_colour: has_reader && !is_set("NO_COLOR") && !is_dumb, has_reader }
    }

    /// Rests a little, if somebody watches.
    pub(crate) fn pause(&self, interrupt: &Interrupt) {
        let end = Instant::now() + PAUSE;
        while self.has_reader && !interrupt.has_come() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn title(&self, text: &str) {
        self.line(&self.paint(BOLD, text));
    }

    pub(crate) fn heading(&self, text: &str) {
        self.line(&format!("\n{}", self.paint(BOLD, &format!("── {text} ──"))));
    }

    pub(crate) fn quiet(&self, text: &str) {
        self.line(&self.paint(DIM, text));
    }

    pub(crate) fn warning(&self, text: &str) {
        self.line(&self.paint(YELLOW, text));
    }

    /// Another program's output.
    pub(crate) fn output(&self, text: &str) {
        for line in text.lines() {
            self.line(&format!("  {line}"));
        }
    }

    /// Configuration, its values apart from its keys.
    pub(crate) fn toml(&self, text: &str) {
        for line in text.lines() {
            let line = match line.split_once(" = ") {
                Some((key, value)) => format!("{key} = {}", self.paint(GREEN, value)),
                None => self.paint(CYAN, line),
            };
            self.line(format!("  {line}").trim_end());
        }
    }

    pub(crate) fn step(&self, number: usize, title: &str) {
        self.line(&format!(
            "\n{} {}",
            self.paint(DIM, &number.to_string()),
            self.paint(BOLD, title)
        ));
    }

    pub(crate) fn sql(&self, statements: &[&str]) {
        for statement in statements {
            self.line(&format!("  {}", self.paint(CYAN, statement)));
        }
    }

    /// What followed from a transaction: like with like, in the order in which it came.
    pub(crate) fn effects(&self, effects: &[Effect], moved: &[Moved]) {
        if effects.is_empty() {
            self.line(&format!("           {}", self.paint(DIM, "nothing")));
        }
        let mut groups: Vec<Vec<&Effect>> = Vec::new();
        for effect in effects {
            let is_like = |other: &Effect| match effect.kind {
                Kind::Gone => other.kind == effect.kind && other.cause == effect.cause,
                Kind::Bumped => other.kind == effect.kind && other.key == effect.key,
            };
            match groups.iter_mut().find(|group| is_like(group[0])) {
                Some(group) => group.push(effect),
                None => groups.push(vec![effect]),
            }
        }
        groups.sort_by_key(|group| group[0].kind == Kind::Bumped);
        groups.iter().for_each(|group| self.group(group, moved));
    }

    fn group(&self, group: &[&Effect], moved: &[Moved]) {
        // A counter that rose several times is one line, from where it was to where it is.
        let skipped = match group {
            [.., last] if last.kind == Kind::Bumped => return self.effect(last, moved),
            _ if group.len() < GROUP_MIN => 0,
            _ => group.len() - 2 * GROUP_SHOWN,
        };
        for (at, effect) in group.iter().enumerate() {
            if skipped == 0 || at < GROUP_SHOWN || at >= group.len() - GROUP_SHOWN {
                self.effect(effect, moved);
            } else if at == GROUP_SHOWN {
                self.line(&self.paint(DIM, &format!("           … {skipped} more …")));
            }
        }
    }

    fn effect(&self, effect: &Effect, moved: &[Moved]) {
        let (sign, colour, what) = match effect.kind {
            Kind::Gone => ("−", RED, effect.key.clone()),
            Kind::Bumped => {
                let moved = moved.iter().find(|(key, _)| *key == effect.key);
                let values = moved.map(|(_, (from, to))| format!(" {from} → {to}"));
                ("↑", YELLOW, format!("{}{}", effect.key, values.unwrap_or_default()))
            }
        };
        let time = format!("{:+7.1} ms", effect.ms);
        let cause = effect.cause.as_deref().unwrap_or("no rule");
        self.line(&format!(
            "{} {} {} {}",
            self.paint(DIM, &time),
            self.paint(colour, sign),
            self.paint(colour, &format!("{what:<34}")),
            self.paint(DIM, cause),
        ));
    }

    /// Something that should not be.
    pub(crate) fn fault(&self, text: &str) {
        self.line(&self.paint(RED, &format!("  ✗ {text}")));
    }

    /// Something that is as it should be.
    pub(crate) fn success(&self, text: &str) {
        self.line(&format!("  {} {text}", self.paint(GREEN, "✓")));
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        match self.has_colour && !text.is_empty() {
            true => format!("\x1b[{colour}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// If the output is closed, nobody is watching; the exit code still tells.
    fn line(&self, text: &str) {
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}
