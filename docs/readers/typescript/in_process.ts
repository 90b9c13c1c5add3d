// Values in the process's own memory, which walpurge's messages empty.
import type { RedisClientType } from "redis";

// A message that never came, of a connection that died in silence, costs no more than this.
const AGE_MAX_MS = 60_000;

export class Local {
  private values = new Map<string, { value: string; until: number }>();
  private isTold = false;
  // Another one after each message, and after each break.
  private epoch = 0;

  constructor(private load: (key: string) => Promise<string>) {}

  async get(key: string): Promise<string> {
    const known = this.values.get(key);
    if (known !== undefined && Date.now() < known.until) return known.value;
    const epoch = this.epoch;
    const value = await this.load(key);
    // What was forgotten while it was being read may be older than the message.
    if (this.isTold && epoch === this.epoch) {
      this.values.set(key, { value, until: Date.now() + AGE_MAX_MS });
    }
    return value;
  }

  private forget(message: string) {
    this.epoch += 1;
    if (message.includes("*")) this.values.clear();
    else this.values.delete(message);
  }

  private forgetAll(isTold: boolean) {
    this.epoch += 1;
    this.isTold = isTold;
    this.values.clear();
  }

  /** Takes a connection of its own; node-redis connects and subscribes again by itself. */
  async listen(cache: RedisClientType, channel: string): Promise<void> {
    const listener = cache.duplicate();
    listener.on("error", () => this.forgetAll(false));
    await listener.connect();
    await listener.subscribe(channel, (message) => this.forget(message));
    this.forgetAll(true);
    listener.on("ready", () => this.forgetAll(true));
  }
}
