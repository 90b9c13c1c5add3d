//! Which output plugin fits the server?

use super::Targets;
use super::database::bounded;
use super::finding::Findings;
use super::server::Server;
use crate::config::Plugin;
use crate::postgres::PgErrorKind;
use crate::postgres::publication::Wanted;
use crate::postgres::relations::{read_columns, relations};

/// What a trial with a plugin has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trial {
    /// The server makes slots with it.
    Works,
    /// It does not.
    Refused(PgErrorKind),
    /// It was not tried.
    Unknown,
}

/// Compares the two, `wal2json` being what its trial has shown.
pub(super) async fn plugins(
    client: &tokio_postgres::Client,
    targets: Targets<'_>,
    server: &Server,
    wal2json: &Trial,
    findings: &mut Findings,
) {
    let rules = targets.rules;
    let asking = async {
        let mut relations = relations(client).await?;
        read_columns(client, &mut relations, |relation| {
            let (schema, table) = (relation.schema.as_bytes(), relation.name.as_bytes());
            relation.parent.is_some() || rules.tables().any(|it| it.matches(schema, table))
        })
        .await?;
        Ok(Wanted::new(rules, &relations, server.version_num))
    };
    // A question that fails here fails above or below as well.
    if let Ok(wanted) = bounded("read the catalog", asking).await {
        let (message, hint) = compared(targets.postgres.plugin, wal2json, &wanted);
        findings.note("plugins", message, hint);
    }
}

/// What is said, and what to do.
fn compared(plugin: Plugin, wal2json: &Trial, wanted: &Wanted) -> (String, Option<String>) {
    const FASTER: &str = "pgoutput comes with Postgres, and is faster";
    let missing = match wal2json {
        Trial::Refused(PgErrorKind::PluginMissing) => Some("wal2json is not installed"),
        Trial::Refused(PgErrorKind::PluginRefused) => {
            Some("wal2json is not among output_plugin_libraries")
        }
        _ => None,
    };
    let failing: Vec<_> = wanted.faults.iter().map(|fault| fault.message.as_str()).collect();
    match (plugin, missing) {
        (Plugin::Wal2json, Some(missing)) if failing.is_empty() => (
            format!("{missing}; {FASTER}: it fits this server"),
            Some("plugin = \"pgoutput\" under [postgres], and walpurge setup".to_owned()),
        ),
        (Plugin::Wal2json, Some(missing)) => (
            format!("neither fits: {missing}, and with pgoutput {}", failing.join("; ")),
            Some("mend either, and with pgoutput run walpurge setup".to_owned()),
        ),
        (Plugin::Wal2json, None) if !failing.is_empty() => {
            (format!("wal2json fits: with pgoutput, which is faster, {}", failing.join("; ")), None)
        }
        (Plugin::Wal2json, None) => {
            let owners: Vec<_> = wanted.owners().into_iter().collect();
            let owner = match owners.as_slice() {
                [owner] => format!("{owner}, who owns the tables, has to make"),
                _ => "the tables' owners have to make".to_owned(),
            };
            (format!("wal2json fits; {FASTER}, and takes a publication, which {owner}"), None)
        }
        (Plugin::Pgoutput, Some(missing)) => (format!("pgoutput fits; {missing}"), None),
        (Plugin::Pgoutput, None) if failing.is_empty() => {
            ("pgoutput fits: every table of the rules has a replica identity".to_owned(), None)
        }
        (Plugin::Pgoutput, None) => (
            format!("wal2json fits better than pgoutput, with which {}", failing.join("; ")),
            Some("mend the tables, or: plugin = \"wal2json\" under [postgres]".to_owned()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::publication::Fault;

    #[track_caller]
    fn check(plugin: Plugin, wal2json: Trial, faults: &[&str], starts: &str) {
        let fault = |message: &&str| Fault { message: (*message).to_owned(), hint: String::new() };
        let faults = faults.iter().map(fault).collect();
        let (said, _) = compared(plugin, &wal2json, &Wanted { faults, ..Wanted::default() });
        assert!(said.starts_with(starts), "{said}");
    }

    #[test]
    fn the_one_that_fits_is_named() {
        use Plugin::{Pgoutput, Wal2json};
        let missing = || Trial::Refused(PgErrorKind::PluginMissing);
        let refused = || Trial::Refused(PgErrorKind::PluginRefused);
        check(Wal2json, Trial::Works, &[], "wal2json fits; pgoutput comes with Postgres");
        check(Wal2json, missing(), &[], "wal2json is not installed; pgoutput comes");
        check(Wal2json, refused(), &[], "wal2json is not among output_plugin_libraries; pgout");
        check(Wal2json, Trial::Works, &["a.b has no"], "wal2json fits: with pgoutput, which is");
        check(Wal2json, missing(), &["a.b has no"], "neither fits: wal2json is not installed, and");
        check(Pgoutput, missing(), &[], "pgoutput fits; wal2json is not installed");
        check(Pgoutput, Trial::Works, &["a.b has no"], "wal2json fits better than pgoutput");
        check(Pgoutput, Trial::Unknown, &[], "pgoutput fits: every table");
    }
}
