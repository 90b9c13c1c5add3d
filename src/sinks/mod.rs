//! The configured endpoints that actions go to: one folder for each kind.
//!
//! A sink has lanes; a lane sends one [`Batch`] at a time. A lane tries
//! once and says what came of it; waiting and trying again is the pipeline's affair.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::action::Batch;
use crate::lookups::LookupLane;
use crate::rules::lookup::Found;

pub mod cdn;
mod dry_run;
pub mod redis;

pub use cdn::cloudfront::Charges;
pub use dry_run::DryRunLane;

/// A configured sink, its secrets fetched.
#[derive(Clone)]
pub enum Endpoint {
    /// A Redis.
    Redis(Arc<redis::RedisConfig>),
    /// A CDN.
    Cdn(Arc<cdn::CdnSink>),
    /// A CDN of Amazon.
    CloudFront(Arc<cdn::cloudfront::CloudFrontSink>),
}

impl Endpoint {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Endpoint::Redis(config) => config.name(),
            Endpoint::Cdn(sink) => sink.name(),
            Endpoint::CloudFront(sink) => sink.name(),
        }
    }

    /// Where it leads to, without secrets.
    pub fn target(&self) -> String {
        match self {
            Endpoint::Redis(config) => config.target().to_string(),
            Endpoint::Cdn(sink) => sink.target(),
            Endpoint::CloudFront(sink) => sink.target(),
        }
    }
}

/// Part of a sink that can be busy on its own, of whichever kind.
pub enum Lane {
    /// A connection to Redis.
    Redis(redis::RedisLane),
    /// Connections to a cluster of Redis.
    Cluster(Box<redis::ClusterLane>),
    /// Requests to a CDN.
    Cdn(cdn::CdnLane),
    /// Invalidations of CloudFront.
    CloudFront(Box<cdn::cloudfront::CloudFrontLane>),
    /// None: what would be done is logged.
    DryRun(DryRunLane),
    /// None: the sink is off, or a replay leaves it alone.
    Left,
    /// None: the sink is held, and everything waits.
    Hold,
    /// Not a sink's: the database says what there is to do.
    Lookup(LookupLane),
}

impl Lane {
    /// What its sink is charged for each item, where it is.
    pub fn charges(&self) -> Option<Arc<Charges>> {
        match self {
            Lane::CloudFront(lane) => Some(lane.charges()),
            _ => None,
        }
    }

    /// Does what `batch` holds from `from` on, or says why it did not. It tries once.
    ///
    /// # Errors
    /// A [`Failure`]: any part of the batch may have run, and all of it must be sent again.
    pub async fn send(&mut self, batch: &Batch, from: usize) -> Result<Report, Failure> {
        match self {
            // Only lookups come back unfinished.
            Lane::Redis(lane) => lane.send(batch).await,
            Lane::Cluster(lane) => Box::pin(lane.send(batch)).await,
            Lane::Cdn(lane) => lane.send(batch).await,
            Lane::CloudFront(lane) => Box::pin(lane.send(batch)).await,
            Lane::DryRun(lane) => Ok(lane.send(batch)),
            Lane::Left => Ok(Report::default()),
            Lane::Hold => Err(Failure::Held),
            Lane::Lookup(lane) => lane.send(batch, from).await,
        }
    }
}

impl Lane {
    /// When the lane has to [`look`](Self::look) if there is nothing to send by then.
    pub fn look_at(&self) -> Option<Instant> {
        match self {
            Lane::Redis(lane) => lane.look_at(),
            Lane::Cluster(lane) => lane.look_at(),
            _ => None,
        }
    }

    /// Looks whether what was done lately is still there.
    ///
    /// # Errors
    /// A [`Failure`]: to be looked at again, after a wait of the caller's.
    pub async fn look(&mut self) -> Result<(), Failure> {
        match self {
            Lane::Redis(lane) => lane.look().await,
            Lane::Cluster(lane) => Box::pin(lane.look()).await,
            _ => Ok(()),
        }
    }
}

/// What a lane did with a batch whose every action is finished.
///
/// Every action of the batch that is not in `rejected` is done at the sink, acknowledged by it.
#[derive(Debug, Default)]
pub struct Report {
    /// How many keys or items the requests asked for.
    pub requested: u64,
    /// How many of them existed and were removed, where the sink tells.
    pub removed: u64,
    /// Actions that can never succeed (a wrong type at a key), by their place in the batch.
    pub rejected: Vec<Rejected>,
    /// What lookups ask for.
    pub found: Found,
    /// Where to go on with a batch that is not finished, once there is room for more.
    pub rest: Option<usize>,
}

/// An action that the sink refused for good.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The action's place in the batch.
    pub index: usize,
    /// The sink's reason, without the value.
    pub reason: String,
}

/// Why a batch is not finished. Any part of it may have run; all of it is sent again.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An outage: it mends itself, so try again soon.
    #[error("{message}")]
    Outage {
        /// What happened, where: the sink's address, the command, its error.
        message: String,
    },
    /// The sink is held by its `mode`.
    #[error("it is held by its mode")]
    Held,
    /// The sink refuses us (password, rights, configuration): a person must act. The actions are
    /// held, tried again slowly, and never dropped.
    #[error("{message}")]
    Refused {
        /// What happened, where.
        message: String,
        /// The command or setting that mends it.
        hint: String,
    },
}

impl Failure {
    /// What happened, and what mends it.
    pub fn into_parts(self) -> (String, Option<String>) {
        match self {
            Failure::Outage { message } => (message, None),
            Failure::Held => (Failure::Held.to_string(), None),
            Failure::Refused { message, hint } => (message, Some(hint)),
        }
    }
}

/// How long one attempt to connect to a sink may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
