"""A row under a key of its own: walpurge deletes the key, and the next reader fills it again."""

TTL_SECONDS = 3600


def product(cache, load, product_id):
    """The product as text; `load` reads it from Postgres."""
    key = f"product:{product_id}"
    cached = cache.get(key)
    if cached is not None:
        return cached
    row = load(product_id)
    cache.set(key, row, ex=TTL_SECONDS)
    return row
