//! What becomes of the publication while a stream goes on.
//!
//! What it does not carry just stays away. So the look at the catalog that finds a table gone finds
//! that too, and the rules' fallbacks take the place of what nobody streams.

use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use super::Settings;
use super::debt::Debt;
use crate::config::{Plugin, Visibility};
use crate::lsn::Lsn;
use crate::pipeline::Plan;
use crate::postgres::client::simple_query;
use crate::postgres::{PgError, PgErrorKind, PublicationQuery, connect_any, refuse_lacks};
use crate::rules::{Publication, RuleSet};

/// How long the catalog may be asked before other rules are taken.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// How many times the daemon's clock ticks before it does without being told where the log ends: a
/// standby does not tell.
const TICKS_MAX: u32 = 10;

/// The publication as it was seen last.
pub(super) struct Published {
    visibility: Visibility,
    /// Not judged yet, and how many ticks ago it was seen.
    seen: Option<(Publication, u32)>,
    /// Where the log ended after that.
    end_lsn: Option<Lsn>,
}

impl Published {
    pub(super) fn new(visibility: Visibility) -> Self {
        Published { visibility, seen: None, end_lsn: None }
    }

    /// Takes what the catalog says now. Where there is none any more, the next change breaks the
    /// stream and says so.
    pub(super) fn take(&mut self, publication: Option<&Publication>) {
        if let Some(publication) = publication {
            (self.seen, self.end_lsn) = (Some((publication.clone(), 0)), None);
        }
    }

    /// The log ends there.
    pub(super) fn ends_at(&mut self, end_lsn: Lsn) {
        self.end_lsn = Some(end_lsn);
    }

    /// Lets the fallbacks run that are owed now, if it is known until when replicas have to be
    /// waited for with them. Between two transactions.
    pub(super) fn look(
        &mut self,
        debt: &mut Debt,
        rules: &RuleSet,
        plan: &mut Plan,
        received_lsn: Lsn,
    ) {
        let Some((_, ticks)) = &mut self.seen else { return };
        *ticks += 1;
        let end_lsn = match self.end_lsn {
            None if *ticks < TICKS_MAX => return,
            end_lsn => end_lsn.unwrap_or_default().max(received_lsn),
        };
        if let Some((publication, _)) = self.seen.take()
            && debt.look(&publication, rules)
        {
            debt.pay_more(self.visibility, rules, plan, end_lsn);
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
