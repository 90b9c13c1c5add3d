//! How are steps exchanged with one node? On one connection, many in flight.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::config::{NodeAddress, RedisConfig};
use super::super::connection::Connection;
use super::super::error::outage;
use super::super::wire::{Reply, Request};
use super::failover::Trace;
use super::steps::Steps;
use crate::failpoint::Place;
use crate::sinks::Failure;

/// The connections of one lane on which nothing is under way.
pub(super) type Connections = HashMap<NodeAddress, Connection>;

/// Steps of one request. It bounds what waits for an answer, and our buffer.
const PIPELINE_STEPS_MAX: usize = 4096;

/// What goes to one node.
pub(super) struct Parcel {
    pub(super) node: NodeAddress,
    /// The node is only about to get the slots: each step has to say that we know.
    pub(super) asking: bool,
    /// The steps, by their places.
    pub(super) steps: Vec<usize>,
}

/// What has come back.
pub(super) struct Exchanged {
    pub(super) parcel: Parcel,
    pub(super) config: Arc<RedisConfig>,
    /// The connection, unless it is out of order.
    pub(super) connection: Option<Connection>,
    /// The replies to the first of the steps, each complete.
    pub(super) replies: Vec<Vec<Reply>>,
    /// Why there are no more of them.
    pub(super) failure: Option<Failure>,
}

/// Sends a parcel's steps and takes their replies. `trace` is told where they are done, before they
/// are.
///
/// Dropping the future abandons the connection with it.
pub(super) async fn exchange(
    parcel: Parcel,
    config: Arc<RedisConfig>,
    kept: Option<Connection>,
    steps: &Steps,
    trace: Option<&Trace>,
) -> Exchanged {
    let mut replies = Vec::with_capacity(parcel.steps.len());
    let exchanging = async {
        let mut connection = open(&config, kept).await?;
        if let (Some(trace), Some(history)) = (trace, connection.server()) {
            trace.meet(&parcel.node, history);
        }
        let mut request = Request::default();
        for chosen in parcel.steps.chunks(PIPELINE_STEPS_MAX) {
            request.clear();
            for &step in chosen {
                if parcel.asking {
                    request.simple(&[b"ASKING"]);
                }
                request.add_written(steps.bytes(step));
            }
            connection.send(&request).await?;
            Place::Sent.pass();
            for &step in chosen {
                if parcel.asking
                    && let Reply::Error(text) = connection.reply("ASKING").await?
                {
                    return Err(outage(&config, "ASKING", text));
                }
                let commands = steps.get(step).commands;
                let mut answer = Vec::with_capacity(commands.len());
                for command in commands {
                    answer.push(connection.reply(command).await?);
                }
                replies.push(answer);
            }
        }
        Ok(connection)
    };
    let (connection, failure) = match exchanging.await {
        Ok(connection) => (Some(connection), None),
        Err(failure) => (None, Some(failure)),
    };
    Exchanged { parcel, config, connection, replies, failure }
}

/// The kept connection if it is in order, else a new one.
pub(super) async fn open(
    config: &Arc<RedisConfig>,
    kept: Option<Connection>,
) -> Result<Connection, Failure> {
    if let Some(mut kept) = kept
        && !kept.is_stale().await
    {
        return Ok(kept);
    }
    Connection::open(Arc::clone(config)).await
}
