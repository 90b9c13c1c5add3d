//! A new slot that loses nothing of what another one brings: how a running installation comes to
//! another plugin, or to another name.
//!
//! A slot brings what is committed after it was made; what was committed before is the other's to
//! finish. So the new one gets its permanent name, under which a daemon would find it, only when the
//! other one has confirmed all of that. Until then it is temporary: should this end before, by
//! whatever cause, nothing is left of it, and the other slot and its daemon are as they were.

use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::super::{Misconfigured, print};
use super::create_slot;
use crate::failpoint::Place;
use crate::postgres::{OrdinaryConnection, Persistence, PgErrorKind, ReplicationSession, SlotInfo};

/// How often is looked how far the other slot is.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// How often is said that it is waited for.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// The slot that a daemon reads until now.
pub(super) async fn former(
    name: &str,
    session: &mut ReplicationSession,
    database: &str,
) -> anyhow::Result<SlotInfo> {
    let Some(found) = session.slot(name).await.map_err(Misconfigured::or_failure)? else {
        return Err(anyhow!(
            "there is no slot {name}; nothing is changed\nhint: name the one that walpurge reads until \
             now, or leave --from-slot out: walpurge setup"
        ));
    };
    let plugin = found.plugin.clone().unwrap_or_default();
    match found.usable(&plugin, database) {
        Ok(()) if plugin.is_empty() => Err(anyhow!("slot {name} is a physical one")),
        Ok(()) => Ok(found),
        Err(error) if *error.kind() == PgErrorKind::SlotLost => Err(anyhow!(
            "slot {name} is lost, and what it would have brought with it; nothing is changed\nhint: \
             walpurge setup, and then walpurge run --assume-gap, once: it runs every rule's fallback"
        )),
        Err(error) => Err(Misconfigured::or_failure(error)),
    }
}

/// Makes `slot` for `plugin` beside `former`, which its daemon reads on.
pub(super) async fn switch(
    former: &SlotInfo,
    session: &mut ReplicationSession,
    asking: &OrdinaryConnection,
    slot: &str,
    plugin: &str,
) -> anyhow::Result<()> {
    let fail = Misconfigured::or_failure;
    // Of its own, since the server may keep that of one that was killed for a while.
    let temporary = format!("{slot:.46}_switch_{:08x}", fastrand::u32(..));
    let start = create_slot(session, asking, &temporary, plugin, Persistence::Temporary).await?;
    Place::SwitchSlotCreated.pass();
    let mut reported = Instant::now();
    loop {
        let Some(now) = session.slot(&former.name).await.map_err(fail)? else {
            return Err(anyhow!("slot {} is gone; slot {slot} is not made", former.name));
        };
        if now.confirmed_flush_lsn >= Some(start) {
            break;
        }
        if reported.elapsed() >= REPORT_EVERY {
            reported = Instant::now();
            let at = now.confirmed_flush_lsn.unwrap_or_default();
            match now.active {
                true => tracing::info!(
                    slot = former.name, %at, until = %start,
                    "waiting until the walpurge that reads the slot has finished what came before"
                ),
                false => tracing::warn!(
                    slot = former.name, %at, until = %start,
                    "nobody reads the slot: start walpurge with its old configuration, which has \
                     to finish what came before"
                ),
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    Place::SwitchPassed.pass();
    session.copy_slot(&temporary, slot, Persistence::Permanent).await.map_err(fail)?;
    Place::SwitchSlotCopied.pass();
    if let Err(error) = session.let_slot_fail_over(slot).await {
        tracing::warn!(
            slot,
            "the slot does not follow a failover, after which there will be a gap: {error}"
        );
    }
    print(&format!(
        "made slot {slot} for {plugin}: what is committed after {start} is invalidated; slot {} has \
         brought all before\n",
        former.name
    ))
}

/// What is left to do.
pub(super) fn next(former: &SlotInfo, slot: &str) -> String {
    format!(
        "next: restart every walpurge with this configuration, then: walpurge teardown --slot {}\n\
         until then both slots hold WAL; slot {slot} waits for its reader\n",
        former.name
    )
}
