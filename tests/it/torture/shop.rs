//! What the torture writes and caches: kinds of entities, each with a table, a rule and keys that
//! no other kind's fallback covers.

use fastrand::Rng;

/// How many entities of each kind are written.
pub const ENTITIES: usize = 300;

/// The first of the rows that are written only by what is rolled back.
pub const KEPT: usize = 1_000_000;

/// How many of them each writer has to itself.
pub const KEPT_PER_WRITER: usize = 20;

pub const TABLES: &str = "
    CREATE TABLE journal (txn bigint PRIMARY KEY);
    CREATE TABLE items (id int PRIMARY KEY, slug text, v bigint);
    ALTER TABLE items REPLICA IDENTITY FULL;
    CREATE TABLE docs (id int PRIMARY KEY, v bigint);
    CREATE TABLE cats (id int PRIMARY KEY, v bigint);
    CREATE TABLE users (id int PRIMARY KEY, v bigint);
    CREATE TABLE posts (id int PRIMARY KEY, user_id int, v bigint);
    CREATE INDEX ON posts (user_id);
    GRANT SELECT ON posts TO walpurge;
    CREATE TABLE lists (id int PRIMARY KEY, v bigint);
    CREATE TABLE orders (id int, part int, v bigint, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
    CREATE TABLE orders_0 PARTITION OF orders FOR VALUES IN (0);
    CREATE TABLE orders_1 PARTITION OF orders FOR VALUES IN (1);
    CREATE TABLE orders_2 PARTITION OF orders FOR VALUES IN (2);
    CREATE TABLE notes (id int PRIMARY KEY, v bigint);
    CREATE TABLE bulk (id int PRIMARY KEY, v bigint);
    INSERT INTO users SELECT n, 0 FROM generate_series(0, 599) n;
    INSERT INTO items SELECT n, 'kept ' || n, 0 FROM generate_series(1000000, 1000199) n;";

pub const RULES: &str = r#"
[[rule]]
table = "public.items"
delete = ["item:{id}", "slug:{slug}"]
[[rule]]
table = "public.docs"
tags = ["doc:{id}"]
[[rule]]
table = "public.cats"
bump = ["cat:{id}:version"]
[[rule]]
table = "public.users"
on = ["insert", "update"]
lookup = "SELECT id AS post_id FROM posts WHERE user_id = {id}"
delete = ["post:{post_id}"]
[[rule]]
table = "public.posts"
delete = ["post:{id}"]
[[rule]]
table = "public.lists"
delete_matching = ["list:{id}:*"]
[[rule]]
table = "public.orders"
delete = ["order:{id}"]
[[rule]]
table = "public.bulk"
delete = ["bulk:{id}"]
"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Two kinds of keys, one of which moves.
    Item,
    /// Pages that carry a tag.
    Doc,
    /// Pages under a version counter.
    Cat,
    /// Two users and their four posts, found by a lookup.
    Post,
    /// Pages removed by a pattern.
    List,
    /// A row that moves between partitions.
    Order,
    /// A row without a rule, of which messages tell.
    Note,
    /// A row whose table is truncated now and then.
    Bulk,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::Item,
        Kind::Doc,
        Kind::Cat,
        Kind::Post,
        Kind::List,
        Kind::Order,
        Kind::Note,
        Kind::Bulk,
    ];

    /// A query for every key of the entities from `first` to `last`, with what it is to hold.
    pub fn truth(self, first: usize, last: usize) -> String {
        let all = format!("generate_series({first}, {last}) e");
        let pages = format!("{all} CROSS JOIN generate_series(0, 2) n");
        let simple = |prefix: &str, table: &str| {
            format!(
                "SELECT '{prefix}:' || e, coalesce(v::text, 'none') FROM {all} LEFT JOIN {table} ON id = e"
            )
        };
        let paged = |prefix: &str, table: &str| {
            format!(
                "SELECT '{prefix}:' || e || ':' || n, coalesce(v::text, 'none')
                 FROM {pages} LEFT JOIN {table} ON id = e"
            )
        };
        match self {
            Kind::Item => format!(
                "{} UNION ALL SELECT 'slug:' || e || '-' || n, coalesce(v::text, 'none')
                 FROM {pages} LEFT JOIN items ON id = e AND slug = e || '-' || n",
                simple("item", "items")
            ),
            Kind::Doc => paged("page", "docs"),
            Kind::Cat => simple("cat", "cats"),
            Kind::Post => format!(
                "SELECT 'post:' || e, coalesce(u.id || '/' || u.v || '/' || p.v, 'none')
                 FROM generate_series({}, {}) e LEFT JOIN posts p ON p.id = e
                 LEFT JOIN users u ON u.id = p.user_id",
                4 * first,
                4 * last + 3
            ),
            Kind::List => paged("list", "lists"),
            Kind::Order => format!(
                "SELECT 'order:' || e, coalesce(part || '/' || v, 'none')
                 FROM {all} LEFT JOIN orders ON id = e"
            ),
            Kind::Note => simple("note", "notes"),
            Kind::Bulk => simple("bulk", "bulk"),
        }
    }

    /// A random write of the entity `e` that leaves `v` behind.
    pub fn write(self, rng: &mut Rng, e: usize, v: u64) -> String {
        let deletes = rng.u8(..10) == 0;
        let part = rng.u8(..3);
        let simple = |table: &str| match deletes {
            true => format!("DELETE FROM {table} WHERE id = {e};"),
            false => format!(
                "INSERT INTO {table} VALUES ({e}, {v}) ON CONFLICT (id) DO UPDATE SET v = {v};"
            ),
        };
        match self {
            Kind::Item if deletes => format!("DELETE FROM items WHERE id = {e};"),
            Kind::Item => format!(
                "INSERT INTO items VALUES ({e}, '{e}-{part}', {v})
                 ON CONFLICT (id) DO UPDATE SET v = {v}, slug = '{e}-{part}';"
            ),
            Kind::Doc => simple("docs"),
            Kind::Cat => simple("cats"),
            Kind::Post => {
                let (post, user) = (4 * e + rng.usize(..4), 2 * e + rng.usize(..2));
                match rng.u8(..3) {
                    0 => format!("UPDATE users SET v = {v} WHERE id = {user};"),
                    _ if deletes => format!("DELETE FROM posts WHERE id = {post};"),
                    _ => format!(
                        "INSERT INTO posts VALUES ({post}, {user}, {v})
                         ON CONFLICT (id) DO UPDATE SET v = {v}, user_id = {user};"
                    ),
                }
            }
            Kind::List => simple("lists"),
            Kind::Order if deletes => format!("DELETE FROM orders WHERE id = {e};"),
            Kind::Order => format!(
                "UPDATE orders SET part = {part}, v = {v} WHERE id = {e};
                 INSERT INTO orders SELECT {e}, {part}, {v}
                     WHERE NOT EXISTS (SELECT FROM orders WHERE id = {e});"
            ),
            Kind::Note => simple("notes"),
            Kind::Bulk => simple("bulk"),
        }
    }
}

/// What asks for a note's invalidation.
pub fn tell_of_note(transactional: bool, e: usize) -> String {
    tell(transactional, &format!(r#"{{"delete":["note:{e}"]}}"#))
}

/// A message, of whatever content.
pub fn tell(transactional: bool, content: &str) -> String {
    format!("SELECT pg_logical_emit_message({transactional}, 'walpurge', '{content}');")
}

/// Keys of rows that nobody writes, each among those of a rule that never runs its fallback.
pub fn kept_keys() -> Vec<String> {
    let prefixes = ["item:", "slug:kept ", "post:", "order:", "note:"];
    let mut keys: Vec<String> = (KEPT..KEPT + 10 * KEPT_PER_WRITER)
        .flat_map(|id| prefixes.map(|prefix| format!("{prefix}{id}")))
        .collect();
    for id in KEPT..KEPT + KEPT_PER_WRITER {
        keys.extend(["page", "list"].map(|prefix| format!("{prefix}:{id}:0")));
        keys.push(format!("cat:{id}:version"));
    }
    keys
}
