//! Partitions: the tables under whose names a partitioned table's changes come.
//!
//! Pure: the catalog is read elsewhere and handed in.

use std::collections::{HashMap, HashSet};

/// What is known of a database in which rules name partitioned tables.
#[derive(Debug, Default)]
pub struct Partitions {
    /// The partitioned tables that rules name: schema and name.
    wholes: Vec<(Vec<u8>, Vec<u8>)>,
    /// By [`table_key`]: the places in `wholes` of the tables that a partition belongs to.
    leaves: HashMap<Box<[u8]>, Vec<usize>>,
    /// Every table that there is.
    tables: HashSet<Box<[u8]>>,
}

/// What tables are told apart by: schema, a zero byte (which no name can hold), and name.
pub(super) fn write_table_key(schema: &[u8], table: &[u8], key: &mut Vec<u8>) {
    key.clear();
    key.extend_from_slice(schema);
    key.push(0);
    key.extend_from_slice(table);
}

/// The same as a key of its own.
fn table_key(schema: &[u8], table: &[u8]) -> Box<[u8]> {
    let mut key = Vec::new();
    write_table_key(schema, table, &mut key);
    key.into()
}

impl Partitions {
    /// Adds a partitioned table, and a partition of it if there is one.
    pub fn add(&mut self, whole: (&[u8], &[u8]), leaf: Option<(&[u8], &[u8])>) {
        let owned = (whole.0.to_vec(), whole.1.to_vec());
        let at = self.wholes.iter().position(|known| *known == owned).unwrap_or_else(|| {
            self.wholes.push(owned);
            self.wholes.len() - 1
        });
        if let Some((schema, table)) = leaf {
            self.leaves.entry(table_key(schema, table)).or_default().push(at);
        }
    }

    /// Adds a table of any kind.
    pub fn know(&mut self, schema: &[u8], table: &[u8]) {
        self.tables.insert(table_key(schema, table));
    }

    /// Whether no rule names a partitioned table.
    pub fn is_empty(&self) -> bool {
        self.wholes.is_empty()
    }

    /// Whether the table existed when the catalog was read.
    pub(super) fn knows(&self, key: &[u8]) -> bool {
        self.tables.contains(key)
    }

    /// The partitioned tables that the table is a partition of, or may have been.
    pub(super) fn wholes_of(&self, key: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
        let known = self.leaves.get(key).map_or(&[][..], Vec::as_slice);
        let unknown = if self.knows(key) { 0..0 } else { 0..self.wholes.len() };
        let places = known.iter().copied().chain(unknown);
        places.map(|at| (self.wholes[at].0.as_slice(), self.wholes[at].1.as_slice()))
    }
}
