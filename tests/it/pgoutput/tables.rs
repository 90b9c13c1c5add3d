//! Tables that change under load, with pgoutput: what it has said of a table counts until it says
//! something else, and of a new one it has said nothing yet.

use crate::world::Plugin::Pgoutput;
use crate::{partitions, schema_changes};

#[test]
fn a_column_renamed_under_load_runs_the_fallback_of_the_rules_that_use_it_alone() {
    schema_changes::assert_renamed_column_falls_back(Pgoutput);
}

#[test]
fn new_partitions_under_load_lose_nothing() {
    partitions::assert_new_partitions_lose_nothing(Pgoutput);
}
