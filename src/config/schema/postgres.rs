//! `[postgres]`, and the sections below it.

use serde_json::{Value, json};

use super::terms::{default, reference, section, words};

pub(super) fn postgres() -> Value {
    section(
        &["url"],
        vec![
            (
                "url",
                "A URL, or libpq's words (\"host=… user=… dbname=…\"). It leads to the server \
                 itself, past any pooler; the role needs LOGIN and REPLICATION.",
                reference("text"),
            ),
            (
                "lookup_url",
                "Where lookups run; it may lead to a pooler. The role needs SELECT on their \
                 tables. Default: url.",
                reference("text"),
            ),
            (
                "slot",
                "The replication slot. It keeps WAL in Postgres until everything in it has been \
                 acted on.",
                default(reference("text"), "walpurge"),
            ),
            (
                "plugin",
                "The slot's output plugin. \"pgoutput\" comes with Postgres and is faster; it \
                 needs a publication, which `walpurge setup` makes.",
                default(words(["wal2json", "pgoutput"]), "wal2json"),
            ),
            (
                "publication",
                "With plugin = \"pgoutput\": the publication that it sends. `walpurge setup` \
                 makes it and keeps it in step with the rules. Default: \"walpurge\".",
                reference("text"),
            ),
            (
                "create_slot",
                "Whether `run` creates the slot if it is missing.",
                default(json!({ "type": "boolean" }), true),
            ),
            (
                "visibility",
                "\"wait\": an action runs only when its transaction is visible to readers. \
                 \"skip\": it runs at once; a reader may put an old row back into the cache, for \
                 good.",
                default(words(["wait", "skip"]), "wait"),
            ),
            (
                "heartbeat",
                "Writes a small message into the WAL so often, so that an idle database does not \
                 hold WAL. \"0s\": never.",
                default(reference("text"), "30s"),
            ),
            (
                "on_gap",
                "What `run` does about a gap, a part of the log that cannot be read (a slot that \
                 is missing or lost, a restored server). \"fallback\": runs every rule's fallback \
                 and goes on. \"halt\": ends with 78; `run --assume-gap` goes on.",
                default(words(["fallback", "halt"]), "fallback"),
            ),
            (
                "messages",
                "What pg_logical_emit_message may ask for. \"keys\": exact values for delete, \
                 bump, tags and purge_keys. \"all\": delete_matching and purge_paths too. \
                 \"off\": nothing.",
                default(words(["keys", "all", "off"]), "keys"),
            ),
            (
                "replicas",
                "Where readers fill caches from besides the primary: actions wait for these servers \
                 too. Default: none.",
                replicas(),
            ),
            (
                "replay",
                "Keeps WAL for `walpurge replay`, in a second slot. Default: none.",
                replay(),
            ),
        ],
    )
}

fn replicas() -> Value {
    section(
        &["urls"],
        vec![
            (
                "urls",
                "postgres://USER@HOST:PORT/DATABASE of each, or libpq's \"host=… user=…\".",
                json!({ "type": "array", "items": reference("text"), "minItems": 1 }),
            ),
            (
                "max_wait",
                "How long an action waits for them at most. Then it runs, and once more when they \
                 have replayed its transaction.",
                default(reference("text"), "5s"),
            ),
        ],
    )
}

fn replay() -> Value {
    section(
        &[],
        vec![
            (
                "window",
                "How far one can go back: WAL and the catalog's dead rows stay for so long.",
                default(reference("text"), "1h"),
            ),
            (
                "max_wal",
                "How much WAL that may hold; beyond, the window is shorter.",
                default(reference("text"), "4GiB"),
            ),
        ],
    )
}
