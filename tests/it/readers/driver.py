"""Does what a test asks of the readers: `get KEY` on a line of the input is answered by
`value TEXT`; for what it has to read from Postgres it asks the test, by `load KEY`."""

import sys
import threading

import redis

where, url, style = sys.argv[1:4]
sys.path.insert(0, where)

import entity
import expiry
import in_process
import tags
import versions


def say(line):
    print(line, flush=True)


def load(key):
    say(f"load {key}")
    return sys.stdin.readline().rstrip("\n")


def load_page(key):
    body, names = load(key).split("|")
    return body, names.split(" ")


cache = redis.Redis.from_url(url, decode_responses=True)
local = in_process.Local(cache, load)
ways = {
    "entity": lambda key: entity.product(cache, load, key),
    "tags": lambda key: tags.page(cache, f"page:{key}", lambda: load_page(key)),
    "versions": lambda key: versions.versioned(
        cache, f"list:{key}", [f"list:{key}:version", "version:all"], lambda: load(key)
    ),
    "expiry": lambda key: expiry.hot(cache, f"hot:{key}", lambda: load(key)),
    "in_process": local.get,
}
if style == "in_process":
    threading.Thread(target=local.listen, args=["invalidations"], daemon=True).start()

while line := sys.stdin.readline():
    _, key = line.split()
    say("value " + ways[style](key))
