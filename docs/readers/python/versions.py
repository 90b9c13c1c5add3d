"""A value under the versions of what it depends on: walpurge raises a version, and what was
stored under the one before is no hit any more."""

import json
import time

TTL_SECONDS = 3600


def versioned(cache, key, counters, load):
    """The value at `key`; `load` reads it from Postgres."""
    stored, *versions = cache.mget(key, *counters)
    if None in versions:
        versions = begin(cache, counters)
    entry = json.loads(stored) if stored is not None else {}
    if entry.get("versions") == versions:
        return entry["value"]
    # The versions were read before the rows: after a commit in between this entry is a miss.
    value = load()
    cache.set(key, json.dumps({"versions": versions, "value": value}), ex=TTL_SECONDS)
    return value


def begin(cache, counters):
    """Starts missing counters at the time, as walpurge does, so that no version comes twice."""
    now = time.time_ns() // 1000
    with cache.pipeline(transaction=True) as step:
        for counter in counters:
            step.set(counter, now, nx=True)
        *_, versions = step.mget(counters).execute()
    return versions
