"""A hot value of which the old one may be shown for a while: walpurge cuts its time to live to
`expire_in`, and one reader makes it anew while all others go on with what is there."""

TTL_SECONDS = 3600
# The rule's `expire_in`.
REFRESH_BELOW_MS = 30_000
# Longer than `load` takes: then another reader tries.
LOAD_MS = 5_000


def hot(cache, key, load):
    """The value at `key`; `load` reads it from Postgres."""
    with cache.pipeline(transaction=True) as step:
        value, left_ms = step.get(key).pttl(key).execute()
    if value is not None and left_ms > REFRESH_BELOW_MS:
        return value
    is_first = cache.set(f"{key}:making", "1", nx=True, px=LOAD_MS)
    if value is not None and not is_first:
        return value
    value = load()
    cache.set(key, value, ex=TTL_SECONDS)
    cache.unlink(f"{key}:making")
    return value
