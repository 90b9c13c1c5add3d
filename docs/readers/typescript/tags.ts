// A page under the tags of what it shows: walpurge deletes every page that a tag lists.
import type { RedisClientType } from "redis";

const PAGE_TTL_SECONDS = 3600;
// Longer than any page lives: a list that expires first forgets pages that still exist.
const TAG_TTL_SECONDS = 2 * PAGE_TTL_SECONDS;

/** The page at `key`; `load` makes it from Postgres, and names its tags. */
export async function page(
  cache: RedisClientType,
  key: string,
  load: () => Promise<{ body: string; tags: string[] }>,
): Promise<string> {
  const cached = await cache.get(key);
  if (cached !== null) return cached;
  const { body, tags } = await load();
  // All in one step, so that no page exists without being listed.
  const step = cache.multi().set(key, body, { EX: PAGE_TTL_SECONDS });
  for (const tag of tags) step.sAdd(`tags:${tag}`, key).expire(`tags:${tag}`, TAG_TTL_SECONDS);
  await step.exec();
  return body;
}
