// A value under the versions of what it depends on: walpurge raises a version, and what was
// stored under the one before is no hit any more.
import type { RedisClientType } from "redis";

const TTL_SECONDS = 3600;

type Entry = { versions: (string | null)[]; value: string };

/** The value at `key`; `load` reads it from Postgres. */
export async function versioned(
  cache: RedisClientType,
  key: string,
  counters: string[],
  load: () => Promise<string>,
): Promise<string> {
  let [stored, ...versions] = await cache.mGet([key, ...counters]);
  if (versions.includes(null)) versions = await begin(cache, counters);
  if (stored) {
    const entry: Entry = JSON.parse(stored);
    if (JSON.stringify(entry.versions) === JSON.stringify(versions)) return entry.value;
  }
  // The versions were read before the rows: after a commit in between this entry is a miss.
  const value = await load();
  const entry: Entry = { versions, value };
  await cache.set(key, JSON.stringify(entry), { EX: TTL_SECONDS });
  return value;
}

/** Starts missing counters at the time, as walpurge does, so that no version comes twice. */
async function begin(cache: RedisClientType, counters: string[]): Promise<(string | null)[]> {
  const now = String(Date.now() * 1000);
  const step = cache.multi();
  for (const counter of counters) step.set(counter, now, { condition: "NX" });
  const replies = await step.mGet(counters).exec();
  return replies.at(-1) as unknown as (string | null)[];
}
