// A hot value of which the old one may be shown for a while: walpurge cuts its time to live to
// `expire_in`, and one reader makes it anew while all others go on with what is there.
import type { RedisClientType } from "redis";

const TTL_SECONDS = 3600;
// The rule's `expire_in`.
const REFRESH_BELOW_MS = 30_000;
// Longer than `load` takes: then another reader tries.
const LOAD_MS = 5_000;

/** The value at `key`; `load` reads it from Postgres. */
export async function hot(
  cache: RedisClientType,
  key: string,
  load: () => Promise<string>,
): Promise<string> {
  const [cached, leftMs] = await cache.multi().get(key).pTTL(key).execTyped();
  if (cached !== null && leftMs > REFRESH_BELOW_MS) return cached;
  const isFirst = await cache.set(`${key}:making`, "1", {
    condition: "NX",
    expiration: { type: "PX", value: LOAD_MS },
  });
  if (cached !== null && isFirst === null) return cached;
  const value = await load();
  await cache.set(key, value, { EX: TTL_SECONDS });
  await cache.unlink(`${key}:making`);
  return value;
}
