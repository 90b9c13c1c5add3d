//! What becomes of the publication while a stream goes on.
//!
//! What it does not carry just stays away. So the look at the catalog that finds a table gone finds
//! that too, and the rules' fallbacks take the place of what nobody streams.

use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use super::Settings;
use super::debt::Debt;
use super::interrupted::Interrupted;
use crate::config::Plugin;
use crate::postgres::client::simple_query;
use crate::postgres::{PgError, PgErrorKind, PublicationQuery, connect_any, refuse_lacks};
use crate::rules::{Publication, RuleSet};

/// How long the catalog may be asked before other rules are taken.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// The publication as it was seen last, until it is judged.
#[derive(Default)]
pub(super) struct Published(Option<Publication>);

impl Published {
    /// Takes what the catalog says now. Where there is none any more, the next change breaks the
    /// stream and says so.
    pub(super) fn take(&mut self, publication: Option<&Publication>) {
        if let Some(publication) = publication {
            self.0 = Some(publication.clone());
        }
    }

    /// Notes what is owed now, between two transactions.
    ///
    /// # Errors
    /// If something is: the next stream begins with it, and in a session of the server that knows
    /// nothing of what was published before.
    pub(super) fn look(&mut self, debt: &mut Debt, rules: &RuleSet) -> Result<(), Interrupted> {
        match self.0.take() {
            Some(publication) if debt.look(&publication, rules) => Err(Interrupted::Catalog),
            _ => Ok(()),
        }
    }
}

/// Refuses other rules whose tables the publication does not carry. A server that does not answer
/// refuses nothing: what is lacking is news then, once it streams.
///
/// # Errors
/// What the publication lacks.
pub async fn check_publication(settings: &Settings, rules: &RuleSet) -> Result<(), PgError> {
    if settings.plugin != Plugin::Pgoutput {
        return Ok(());
    }
    let error = match timeout(ASK_TIMEOUT, ask(settings, rules)).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(_) => PgError::timeout("read the publication", ASK_TIMEOUT),
    };
    match error.kind() {
        PgErrorKind::PublicationMissing | PgErrorKind::PublicationLacking { .. } => Err(error),
        _ => {
            warn!("the publication is not compared with the rules: {error}");
            Ok(())
        }
    }
}

async fn ask(settings: &Settings, rules: &RuleSet) -> Result<(), PgError> {
    let open = connect_any(&settings.connect).await?;
    let version = simple_query(&open.client, "SHOW server_version_num").await?;
    let version = version.into_iter().flatten().flatten().next();
    let version_num = version.and_then(|version| version.parse().ok()).unwrap_or_default();
    let query = PublicationQuery::new(&settings.publication, rules, version_num);
    let rows = simple_query(&open.client, query.sql()).await?;
    refuse_lacks(&query.found(rows)?, rules)
}
