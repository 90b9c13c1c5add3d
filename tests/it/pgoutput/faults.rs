//! The faults that matter most to where a stream goes on, with pgoutput: its transactions tell where
//! they end only when they do, and empty ones are not sent at all.

use crate::world::Plugin::Pgoutput;
use crate::{crashes, faults, torture};

#[test]
fn actions_in_memory_at_a_kill_are_repeated() {
    faults::assert_repeats_what_was_in_memory(Pgoutput);
}

#[test]
fn the_oracle_catches_a_build_that_confirms_before_it_acts() {
    faults::assert_oracle_can_fail(Pgoutput);
}

#[test]
fn kills_under_load_lose_nothing() {
    faults::assert_kills_lose_nothing(Pgoutput);
}

#[test]
fn a_postgres_that_restarts_under_load_loses_nothing() {
    faults::assert_restarts_lose_nothing(Pgoutput);
}

#[test]
fn a_replication_connection_that_is_cut_loses_nothing() {
    faults::assert_cuts_lose_nothing(Pgoutput);
}

#[test]
fn killed_before_and_after_a_confirm() {
    crashes::assert_survives_with(Pgoutput, &["kill_at=before_confirm", "kill_at=after_confirm:2"]);
}

#[test]
fn killed_in_the_middle_of_a_transaction_of_which_a_part_is_done() {
    crashes::assert_survives_half_done(Pgoutput);
}

#[test]
fn killed_before_and_after_a_position_is_written() {
    let kills = ["kill_at=before_position", "kill_at=after_position:3", "kill_at=after_position:5"];
    crashes::assert_positions_survive_with(Pgoutput, &kills);
}

#[test]
fn a_short_torture_loses_nothing() {
    torture::assert_short_torture_loses_nothing(Pgoutput);
}
