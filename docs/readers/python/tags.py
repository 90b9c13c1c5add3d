"""A page under the tags of what it shows: walpurge deletes every page that a tag lists."""

PAGE_TTL_SECONDS = 3600
# Longer than any page lives: a list that expires first forgets pages that still exist.
TAG_TTL_SECONDS = 2 * PAGE_TTL_SECONDS


def page(cache, key, load):
    """The page at `key`; `load` makes it from Postgres, and names its tags."""
    cached = cache.get(key)
    if cached is not None:
        return cached
    body, tags = load()
    # All in one step, so that no page exists without being listed.
    with cache.pipeline(transaction=True) as step:
        step.set(key, body, ex=PAGE_TTL_SECONDS)
        for tag in tags:
            step.sadd(f"tags:{tag}", key)
            step.expire(f"tags:{tag}", TAG_TTL_SECONDS)
        step.execute()
    return body
