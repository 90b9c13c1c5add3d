// Asks the daemon, with the token if there is one.

/** The daemon wants a token, or another one. */
class Locked extends Error {}

const TOKEN = "walpurge-token";
const ANSWER_WITHIN_MS = 5000;

// Where the browser stores nothing, the token lasts as long as the page.
let token = null;
try {
  token = sessionStorage.getItem(TOKEN);
} catch {}

/** Keeps a token for as long as the tab is open; null forgets it. */
function keepToken(given) {
  token = given;
  try {
    if (given === null) sessionStorage.removeItem(TOKEN);
    else sessionStorage.setItem(TOKEN, given);
  } catch {}
}

/** How far the daemon's clock is ahead of ours, in milliseconds. */
let clockAhead = 0;

/** The daemon's answer; paths are relative, so that a proxy may put the page anywhere. */
async function ask(path, signal) {
  const headers = new Headers();
  if (token !== null) {
    try {
      headers.set("Authorization", `Bearer ${token}`);
    } catch {
      throw new Locked("This cannot be a token.");
    }
  }
  const answer = await fetch(path, { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" });
  if (answer.status === 401) {
    throw new Locked(token === null ? "" : "The daemon refuses this token.");
  }
  if (!answer.ok) throw new Error(`the daemon answers ${answer.status}: ${(await answer.text()).slice(0, 200).trim()}`);
  return answer;
}

/** The daemon's answer, read as JSON. */
async function askJson(path) {
  const answer = await ask(path, AbortSignal.timeout(ANSWER_WITHIN_MS));
  const date = Date.parse(answer.headers.get("Date") ?? "");
  // The header has whole seconds.
  if (!Number.isNaN(date)) {
    const ahead = date + 500 - Date.now();
    clockAhead = Math.abs(ahead) < 2000 ? 0 : ahead;
  }
  return answer.json();
}

/** The daemon's time, in seconds since 1970. */
function daemonSeconds() {
  return (Date.now() + clockAhead) / 1000;
}

/** Our time in milliseconds, from the daemon's in seconds. */
function ourTime(seconds) {
  return seconds * 1000 - clockAhead;
}
