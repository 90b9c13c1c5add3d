//! `tail`: single invalidations of the running daemon, as they are asked for.

use anyhow::{Context, anyhow};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::status::{daemon, places};
use super::{Outcome, block_on, load, print, say};
use crate::cli::{Global, TailArgs};

/// A line of the daemon's.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Missed { missed: u64 },
    Action(Box<Invalidation>),
}

#[derive(Debug, Deserialize)]
struct Invalidation {
    commit_lsn: Option<String>,
    xid: Option<u32>,
    rule: Option<String>,
    table: Option<String>,
    op: Option<String>,
    sinks: Vec<String>,
    action: String,
    value: String,
    hashed: bool,
    fallback: Option<String>,
}

pub(super) fn tail(global: &Global, args: &TailArgs) -> anyhow::Result<Outcome> {
    let loaded = load(global)?;
    let places = places(&loaded)?;
    block_on(async {
        let found = daemon(&loaded, &places).await?;
        let (place, _) = found.ok_or_else(|| {
            let tried: Vec<_> = places.iter().map(ToString::to_string).collect();
            anyhow!(
                "no daemon answers; asked {}\nhint: RUNTIME_DIRECTORY says where its socket is, or \
                 [admin] listen where it listens",
                tried.join(", ")
            )
        })?;
        let mut lines = place.follow(&path(args)).await.with_context(|| place.to_string())?;
        let mut knows_hashes = args.json;
        while let Some(line) = lines.next().await.context("the daemon broke off")? {
            // An empty one only shows that the daemon lives.
            if line.is_empty() {
                continue;
            }
            let text = String::from_utf8_lossy(&line);
            if args.json {
                print(&format!("{text}\n"))?;
                continue;
            }
            match serde_json::from_str(&text).context("the daemon says something else")? {
                Line::Missed { missed } => {
                    say(&format!("{missed} lines were too many and are lost\n"))
                }
                Line::Action(invalidation) => {
                    if invalidation.hashed && !std::mem::replace(&mut knows_hashes, true) {
                        say("values are shown as hashes; [admin] show_keys = true shows them\n");
                    }
                    print(&shown(&invalidation))?;
                }
            }
        }
        Err(anyhow!("the daemon has ended"))
    })
}

fn path(args: &TailArgs) -> String {
    let filters = [("rule", &args.rules), ("sink", &args.sinks), ("table", &args.tables)];
    let pairs = filters.into_iter().flat_map(|(key, values)| {
        let pair =
            move |value: &String| format!("{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
        values.iter().map(pair)
    });
    format!("/tail?{}", pairs.collect::<Vec<_>>().join("&"))
}

/// A line for a person; a value cannot make it two.
fn shown(of: &Invalidation) -> String {
    let Invalidation { commit_lsn, xid, rule, table, op, sinks, action, value, fallback, .. } = of;
    let at = commit_lsn.as_deref().unwrap_or("-");
    let xid = xid.map_or("-".to_owned(), |xid| xid.to_string());
    let rule = rule.as_deref().unwrap_or("(message)");
    let from = match (op, table) {
        (Some(op), Some(table)) => format!(" {op} {table}"),
        _ => String::new(),
    };
    let why = fallback.as_ref().map(|cause| format!(" (fallback: {cause})")).unwrap_or_default();
    let sinks = sinks.join(",");
    let line = format!("{at} {xid} {rule}{from} → {sinks} {action} {value}{why}");
    line.chars().map(|char| if char.is_control() { ' ' } else { char }).chain(['\n']).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;

    #[test]
    fn a_line_says_what_is_invalidated_where_and_why() {
        let json = r#"{"commit_lsn":"0/16B3748","xid":741,"rule":"product","table":"public.products",
            "op":"update","sinks":["cache","other"],"action":"delete","value":"a\nb","hashed":false}"#;
        let Line::Action(line) = serde_json::from_str(json).unwrap() else { panic!() };
        let expected = "0/16B3748 741 product update public.products → cache,other delete a b\n";
        assert_eq!(shown(&line), expected);
        let json = r#"{"commit_lsn":null,"xid":null,"rule":null,"table":null,"op":null,"sinks":[],
            "action":"tags","value":"t","hashed":false,"fallback":"gap"}"#;
        let Line::Action(line) = serde_json::from_str(json).unwrap() else { panic!() };
        assert_eq!(shown(&line), "- - (message) →  tags t (fallback: gap)\n");
        assert!(matches!(serde_json::from_str(r#"{"missed":3}"#), Ok(Line::Missed { missed: 3 })));
    }

    #[test]
    fn filters_are_encoded() {
        let rules = vec!["a&b=c".to_owned()];
        let tables = vec!["public.t".to_owned(), "ä".to_owned()];
        let args = TailArgs { rules, sinks: Vec::new(), tables, json: false };
        assert_eq!(path(&args), "/tail?rule=a%26b%3Dc&table=public%2Et&table=%C3%A4");
    }
}
