//! What a key of Redis holds. Pure data.

/// The type of a key's value, as `TYPE` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyType {
    /// A string, or a counter.
    String,
    /// A hash.
    Hash,
    /// A list.
    List,
    /// A set.
    Set,
    /// A sorted set.
    Zset,
    /// A stream.
    Stream,
}

impl KeyType {
    /// All of them.
    pub const ALL: [KeyType; 6] = [
        KeyType::String,
        KeyType::Hash,
        KeyType::List,
        KeyType::Set,
        KeyType::Zset,
        KeyType::Stream,
    ];

    /// Redis' word for it, which is the configuration's too.
    pub fn name(self) -> &'static str {
        match self {
            KeyType::String => "string",
            KeyType::Hash => "hash",
            KeyType::List => "list",
            KeyType::Set => "set",
            KeyType::Zset => "zset",
            KeyType::Stream => "stream",
        }
    }

    /// The type of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        KeyType::ALL.into_iter().find(|known| known.name() == name)
    }
}
