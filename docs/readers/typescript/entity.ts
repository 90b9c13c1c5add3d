// A row under a key of its own: walpurge deletes the key, and the next reader fills it again.
import type { RedisClientType } from "redis";

const TTL_SECONDS = 3600;

/** The product as text; `load` reads it from Postgres. */
export async function product(
  cache: RedisClientType,
  load: (id: string) => Promise<string>,
  id: string,
): Promise<string> {
  const key = `product:${id}`;
  const cached = await cache.get(key);
  if (cached !== null) return cached;
  const row = await load(id);
  await cache.set(key, row, { EX: TTL_SECONDS });
  return row;
}
