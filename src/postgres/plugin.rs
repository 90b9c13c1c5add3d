//! What is asked of an output plugin, whichever it is, and what comes of it?
//!
//! Whoever streams has options and gets a stream with its format. Only here and where the options
//! are made does anybody ask which plugin it is.

use super::error::{PgError, PgErrorKind};
use super::pgoutput::PgoutputOptions;
use super::replication::ReplicationStream;
use super::session::{ReplicationSession, StartFailure};
use super::wal2json::{NumericFormat, Wal2jsonOptions, lacks_numerics};
use crate::lsn::Lsn;

/// What a stream shall contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginOptions {
    /// Lines of wal2json.
    Wal2json(Wal2jsonOptions),
    /// Messages of pgoutput.
    Pgoutput(PgoutputOptions),
}

/// How much is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// Also what an older plugin refuses, see [`is_too_new`]. That costs the session its temporary
    /// slots.
    Everything,
    /// What every version of the plugin knows.
    Certain,
}

/// What a stream is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines of wal2json.
    Wal2json(NumericFormat),
    /// Messages of pgoutput.
    Pgoutput,
}

/// A started stream.
pub struct StartedStream {
    /// The stream.
    pub stream: ReplicationStream,
    /// What it is written in.
    pub format: Format,
}

impl PluginOptions {
    /// The plugin's name in Postgres.
    pub fn plugin(&self) -> &'static str {
        match self {
            PluginOptions::Wal2json(_) => "wal2json",
            PluginOptions::Pgoutput(_) => "pgoutput",
        }
    }

    /// In the plugin's own words, and what the stream is written in then.
    fn words(&self, asking: Asking) -> (Vec<(&'static str, String)>, Format) {
        match self {
            PluginOptions::Wal2json(options) => {
                let numerics = match asking {
                    Asking::Everything => NumericFormat::Strings,
                    Asking::Certain => NumericFormat::Numbers,
                };
                (options.options(numerics), Format::Wal2json(numerics))
            }
            PluginOptions::Pgoutput(options) => (options.options(), Format::Pgoutput),
        }
    }
}

impl ReplicationSession {
    /// Checks that the slot is ours and starts its plugin from where it stands, with everything
    /// that the server's version of it knows.
    ///
    /// Not cancel safe.
    pub async fn start_stream(
        mut self,
        slot: &str,
        options: &PluginOptions,
    ) -> Result<StartedStream, StartFailure> {
        if let Err(error) = self.usable_slot(slot, options.plugin()).await {
            let lost = *error.kind() == PgErrorKind::ConnectionLost;
            let session = if lost { None } else { Some(Box::new(self)) };
            return Err(StartFailure { session, error });
        }
        match self.start_stream_from(slot, Lsn::ZERO, options, Asking::Everything).await {
            Err(StartFailure { session: Some(session), error }) if is_too_new(&error) => {
                session.start_stream_from(slot, Lsn::ZERO, options, Asking::Certain).await
            }
            started => started,
        }
    }

    /// Starts the plugin from a position: see
    /// [`start_replication_from`](ReplicationSession::start_replication_from). Not cancel safe.
    pub async fn start_stream_from(
        mut self,
        slot: &str,
        from: Lsn,
        options: &PluginOptions,
        asking: Asking,
    ) -> Result<StartedStream, StartFailure> {
        if let PluginOptions::Pgoutput(options) = options {
            self.subject_mut().publication = Some(options.publication.clone());
        }
        let (words, format) = options.words(asking);
        let words: Vec<_> = words.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let stream = self.start_replication_from(slot, from, &words).await?;
        Ok(StartedStream { stream, format })
    }
}

/// Whether the server's plugin is too old for [`Asking::Everything`].
pub fn is_too_new(error: &PgError) -> bool {
    lacks_numerics(error)
}
