// Does what a test asks of the readers: `get KEY` on a line of the input is answered by
// `value TEXT`; for what it has to read from Postgres it asks the test, by `load KEY`.
import { createInterface } from "node:readline";
import { createClient, type RedisClientType } from "redis";
import { product } from "./entity";
import { hot } from "./expiry";
import { Local } from "./in_process";
import { page } from "./tags";
import { versioned } from "./versions";

async function main(url: string, style: string) {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const load = async (key: string): Promise<string> => {
    console.log(`load ${key}`);
    return (await lines.next()).value;
  };
  const loadPage = async (key: string) => {
    const [body, tags] = (await load(key)).split("|");
    return { body, tags: tags.split(" ") };
  };
  const cache: RedisClientType = createClient({ url });
  cache.on("error", (error) => console.error(error));
  await cache.connect();
  const local = new Local(load);
  if (style === "in_process") void local.listen(cache, "invalidations");
  const ways: Record<string, (key: string) => Promise<string>> = {
    entity: (key) => product(cache, load, key),
    tags: (key) => page(cache, `page:${key}`, () => loadPage(key)),
    versions: (key) =>
      versioned(cache, `list:${key}`, [`list:${key}:version`, "version:all"], () => load(key)),
    expiry: (key) => hot(cache, `hot:${key}`, () => load(key)),
    in_process: (key) => local.get(key),
  };
  for (let line = await lines.next(); !line.done; line = await lines.next()) {
    const key = line.value.split(" ")[1];
    console.log(`value ${await ways[style](key)}`);
  }
  process.exit(0);
}

void main(process.argv[2], process.argv[3]);
